"""Layers: a cell over time, stacks, both directions, and dropout for sequences."""

from unspool.layers.bidirectional import Bidirectional
from unspool.layers.bptt import BPTT, CheckpointedBPTT, FullBPTT, TruncatedBPTT
from unspool.layers.dropout import LockedDropout, WeightDrop, embed_with_dropout, weight_drop
from unspool.layers.recurrent import Layer, LayerOutput, Recurrent, Trajectory
from unspool.layers.stack import Stack, stack_cells

__all__ = [
    "BPTT",
    "Bidirectional",
    "CheckpointedBPTT",
    "FullBPTT",
    "Layer",
    "LayerOutput",
    "LockedDropout",
    "Recurrent",
    "Stack",
    "Trajectory",
    "TruncatedBPTT",
    "WeightDrop",
    "embed_with_dropout",
    "stack_cells",
    "weight_drop",
]
