"""Layers: a cell over time, stacks, both directions, and dropout for sequences."""

from unspool.layers.attention import SCORES, Attended, Attention, Memory
from unspool.layers.bidirectional import Bidirectional
from unspool.layers.bptt import BPTT, CheckpointedBPTT, FullBPTT, TruncatedBPTT
from unspool.layers.dropout import LockedDropout, WeightDrop, embed_with_dropout, weight_drop
from unspool.layers.explain import explain
from unspool.layers.recurrent import Layer, LayerOutput, Recurrent, Trajectory
from unspool.layers.stack import Stack, stack_cells
from unspool.layers.stream import Stream

__all__ = [
    "BPTT",
    "SCORES",
    "Attended",
    "Attention",
    "Bidirectional",
    "CheckpointedBPTT",
    "FullBPTT",
    "Layer",
    "LayerOutput",
    "LockedDropout",
    "Memory",
    "Recurrent",
    "Stack",
    "Stream",
    "Trajectory",
    "TruncatedBPTT",
    "WeightDrop",
    "embed_with_dropout",
    "explain",
    "stack_cells",
    "weight_drop",
]
