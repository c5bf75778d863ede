"""Search: from a model of the next symbol to sequences."""

from unspool.search.sampling import Sampling, filter_logits, sample

__all__ = ["Sampling", "filter_logits", "sample"]
