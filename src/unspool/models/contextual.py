"""Words by the states of character language models at their edges, where the whole sentence before them has been read.

Akbik, Blythe & Vollgraf 2018 (COLING, "Contextual string embeddings for sequence labeling").
"""

from collections.abc import Sequence

import torch
from torch import nn

from unspool.data import Tokenizer
from unspool.models.language_model import LanguageModel
from unspool.types import Float, Tensor


class CharacterContext(nn.Module):
    """A character language model that reads sentences, and what it has in mind at each word.

    A model that reads forwards is asked after the last character of a word, one that reads backwards after its first.

    Args:
        model: reads characters or bytes.
        tokenizer: its own.
        is_backward: it reads texts from their end.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, is_backward: bool):
        super().__init__()
        self.model, self.tokenizer, self.is_backward = model.eval().requires_grad_(False), tokenizer, is_backward

    @property
    def size(self) -> int:
        """Features of a word."""
        return self.model.stack.output_size

    @torch.no_grad()
    def forward(self, sentences: Sequence[Sequence[str]]) -> Float[Tensor, "T B F"]:
        """Features of the words of sentences, zeros beyond their ends."""
        read = [self._read(sentence) for sentence in sentences]
        lengths = torch.tensor([len(tokens) for tokens, _ in read])
        tokens = torch.zeros(int(lengths.max()), len(read), dtype=torch.long)
        places = torch.zeros(max(map(len, sentences)), len(read), dtype=torch.long)
        is_word = torch.zeros(*places.shape, 1, dtype=torch.bool)
        for b, (own, edges) in enumerate(read):
            tokens[: len(own), b] = torch.tensor(own)
            places[: len(edges), b] = torch.tensor(edges)
            is_word[: len(edges), b] = True
        outputs = self.model.stack(self.model.embed(tokens), lengths=lengths).output
        found = outputs.gather(0, places.unsqueeze(-1).expand(-1, -1, outputs.shape[-1]))
        return torch.where(is_word, found, 0.0)

    def _read(self, sentence: Sequence[str]) -> tuple[list[int], list[int]]:
        """A line break and the sentence in the model's order, and the step after which each word has been read."""
        words = list(reversed(sentence)) if self.is_backward else sentence
        tokens, edges = self.tokenizer.encode("\n"), []
        for word in words:
            own = self.tokenizer.encode(word)
            tokens += reversed(own) if self.is_backward else own
            edges.append(len(tokens) - 1)
            tokens += self.tokenizer.encode(" ")
        return tokens[:-1], list(reversed(edges)) if self.is_backward else edges
