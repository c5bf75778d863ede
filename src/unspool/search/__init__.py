"""Search: from a model of the next symbol to sequences."""

from unspool.search.sampling import Sampling, draw, filter_logits, sample

__all__ = ["Sampling", "draw", "filter_logits", "sample"]
