"""Architectures and their likelihoods."""

from unspool.models.language_model import LanguageModel, LossOutput
from unspool.models.writer import Writer

__all__ = ["LanguageModel", "LossOutput", "Writer"]
