"""Search: from a model of the next symbol to sequences."""

from unspool.search.beam import Beam, beam_search
from unspool.search.choices import Choices, LinearSoftmax, Softmax
from unspool.search.sampling import Sampling, draw, filter_logits, sample
from unspool.search.sequences import Draws, Hypothesis, SequenceModel, sample_sequences

__all__ = [
    "Beam",
    "Choices",
    "Draws",
    "Hypothesis",
    "LinearSoftmax",
    "Sampling",
    "SequenceModel",
    "Softmax",
    "beam_search",
    "draw",
    "filter_logits",
    "sample",
    "sample_sequences",
]
