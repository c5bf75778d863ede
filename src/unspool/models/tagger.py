"""A tagger: words with their characters, a bidirectional stack, and a tag for each word and target."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from unspool.cells import Cell
from unspool.data.batching import IGNORED
from unspool.layers import Bidirectional, LockedDropout, Stack
from unspool.models.language_model import LossOutput
from unspool.types import Float, Int, Tensor


class TaggingBatch(NamedTuple):
    """Sentences side by side.

    Attributes:
        words: [T, B] numbers of words.
        lengths: [B] words of each sentence.
        types: [T, B] places of the words among the different spellings of the batch.
        characters: [L, U] characters of each spelling.
        spellings: [U] their lengths.
        targets: [K, T, B] tags of each target, or `IGNORED`.
    """

    words: Int[Tensor, "T B"]
    lengths: Int[Tensor, " B"]
    types: Int[Tensor, "T B"]
    characters: Int[Tensor, "L U"]
    spellings: Int[Tensor, " U"]
    targets: Int[Tensor, "K T B"]

    def to(self, device: torch.device) -> "TaggingBatch":
        """The batch on a device."""
        return TaggingBatch(*(tensor.to(device) for tensor in self))

    def last_step(self) -> "TaggingBatch":
        """The same batch, of which only the last word of each sentence counts."""
        targets = torch.full_like(self.targets, IGNORED)
        rows = torch.arange(self.words.shape[1], device=self.words.device)
        targets[:, self.lengths - 1, rows] = self.targets[:, self.lengths - 1, rows]
        return self._replace(targets=targets)


class Tagger(nn.Module):
    """p(tag of word t | sentence), for several targets at once.

    ::

        s_u = W_c [forward RNN over the characters of u; backward RNN]       for every spelling u of the batch
        x_t = dropout([embedding[word_t]; s_word_t])
        y_t = stack of bidirectional layers (x)_t
        logits of target k = W_k dropout(y_t) + b_k

    Ling et al. 2015 (arXiv 1508.02096) for characters; Plank, Sogaard & Goldberg 2016 (arXiv 1604.05529) for targets together.

    Args:
        num_words, num_characters: of the vocabularies; 0 is padding, 1 unknown.
        num_tags: for each target.
        build_cell: makes a cell from an input size and a hidden size.
        embedding_size, character_size: features of a word, and of a character.
        spelling_size: H of the characters' RNN, and features of a spelling.
        hidden_size, num_layers: of the stack, for each direction.
        dropout: locked over a sentence.
        word_dropout: probability that a word is read as the unknown word, so that its spelling has to do.
    """

    def __init__(
        self,
        num_words: int,
        num_characters: int,
        num_tags: Mapping[str, int],
        build_cell: Callable[[int, int], Cell],
        embedding_size: int = 100,
        character_size: int = 64,
        spelling_size: int = 128,
        hidden_size: int = 256,
        num_layers: int = 2,
        dropout: float = 0.4,
        word_dropout: float = 0.2,
    ):
        super().__init__()
        self.embedding = nn.Embedding(num_words, embedding_size, padding_idx=0)
        self.character_embedding = nn.Embedding(num_characters, character_size, padding_idx=0)
        for table in (self.embedding, self.character_embedding):
            nn.init.normal_(table.weight, std=0.1)
        self.spelling = Bidirectional(
            build_cell(character_size, spelling_size), build_cell(character_size, spelling_size)
        )
        self.spelling_map = nn.Linear(2 * spelling_size, spelling_size)
        layers: list[Bidirectional] = []
        for _ in range(num_layers):
            size = layers[-1].output_size if layers else embedding_size + spelling_size
            layers.append(Bidirectional(build_cell(size, hidden_size), build_cell(size, hidden_size)))
        self.stack = Stack(layers, dropout)
        self.heads = nn.ModuleList(nn.Linear(self.stack.output_size, count) for count in num_tags.values())
        self.dropout, self.character_dropout = LockedDropout(dropout), nn.Dropout(dropout / 2)
        self.word_dropout = word_dropout

    def initial_state(self, batch_size: int) -> Any:
        """Nothing: sentences stand alone."""
        return ()

    def forward(self, batch: TaggingBatch) -> Float[Tensor, "T B O"]:
        """What the heads read."""
        words = batch.words
        if self.training and self.word_dropout:
            dropped = torch.rand(words.shape, device=words.device) < self.word_dropout
            words = torch.where(dropped & (words > 0), 1, words)
        spelled = self.spell(batch.characters, batch.spellings)
        x = torch.cat([self.embedding(words), spelled[batch.types]], -1)
        return self.dropout(self.stack(self.dropout(x), lengths=batch.lengths).output)

    def spell(self, characters: Int[Tensor, "L U"], lengths: Int[Tensor, " U"]) -> Float[Tensor, "U S"]:
        """Features of each spelling from its characters."""
        x = self.character_dropout(self.character_embedding(characters))
        ahead, behind = self.spelling(x, lengths=lengths).state
        return torch.tanh(self.spelling_map(self.character_dropout(torch.cat([ahead[0], behind[0]], -1))))

    def logits(self, outputs: Float[Tensor, "*N O"]) -> list[Float[Tensor, "*N V"]]:
        """Unnormalized log-probabilities of the tags of each target."""
        return [head(outputs) for head in self.heads]

    def loss(self, batch: TaggingBatch, state: Any = None) -> LossOutput:
        """Cross-entropy in nats, summed over words and targets and divided by the number of targets."""
        outputs = self(batch)
        nats = outputs.new_zeros(())
        for logits, targets in zip(self.logits(outputs), batch.targets, strict=True):
            nats = nats + nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
            )
        return LossOutput(nats / len(batch.targets), int(batch.lengths.sum()), (), nats.new_zeros(()))
