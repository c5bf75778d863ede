"""Architectures and their likelihoods."""

from unspool.models.language_model import LanguageModel, LossOutput

__all__ = ["LanguageModel", "LossOutput"]
