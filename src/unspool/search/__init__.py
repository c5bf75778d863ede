"""Search: from a model of the next symbol to sequences."""

from unspool.search.beam import Beam, BeamModel, Hypothesis, beam_search
from unspool.search.sampling import Sampling, draw, filter_logits, sample

__all__ = ["Beam", "BeamModel", "Hypothesis", "Sampling", "beam_search", "draw", "filter_logits", "sample"]
