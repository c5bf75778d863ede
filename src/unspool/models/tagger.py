"""A tagger: words with their characters, a bidirectional stack, and a tag for each word and target."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from unspool.cells import Cell
from unspool.data.batching import IGNORED
from unspool.layers import Bidirectional, LockedDropout, Stack
from unspool.models.crf import CRF, Path
from unspool.models.language_model import LossOutput
from unspool.types import Float, Int, Tensor

_SHORT = 14  # characters of a spelling, its two ends included; few words are longer


class TaggingBatch(NamedTuple):
    """Sentences side by side.

    Attributes:
        words: [T, B] numbers of words.
        lengths: [B] words of each sentence.
        types: [T, B] places of the words among the different spellings of the batch.
        characters: [L, U] characters of each spelling.
        spellings: [U] their lengths.
        targets: [K, T, B] tags of each target, or `IGNORED`.
        features: [T, B, F] features of words from elsewhere: vectors, states of a language model; F may be 0.
    """

    words: Int[Tensor, "T B"]
    lengths: Int[Tensor, " B"]
    types: Int[Tensor, "T B"]
    characters: Int[Tensor, "L U"]
    spellings: Int[Tensor, " U"]
    targets: Int[Tensor, "K T B"]
    features: Float[Tensor, "T B F"]

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

        s_u = tanh(W_c [forward RNN over the characters of u; backward RNN])       for every spelling u of the batch
        x_t = dropout([embedding[word_t]; s_word_t; W_f features_t])
        y_t = stack of bidirectional layers (x)_t
        logits of target k = W_k dropout(y_t) + b_k

    Ling et al. 2015 (arXiv 1508.02096) for characters; Plank, Sogaard & Goldberg 2016 (arXiv 1604.05529) for targets
    together; Akbik et al. 2018 (COLING, "Contextual string embeddings") for states of a language model as features.

    Args:
        word_counts: how often training shows each word; their numbers begin at 2 (0 is padding, 1 unknown).
        num_characters: of the vocabulary; 0 is padding, 1 unknown.
        num_tags: for each target.
        crfs: for each target how its tags depend on each other; the logits are the emissions.
        build_cell: makes a cell from an input size and a hidden size.
        embedding_size, character_size: features of a word, and of a character.
        spelling_size: H of the characters' RNN, and features of a spelling.
        hidden_size, num_layers: of the stack, for each direction.
        dropout: locked over a sentence; half of it for characters, spellings and features from elsewhere.
        word_dropout: a; a word that training shows n times is read as the unknown word with probability a / (a + n), so
            that its spelling has to do (Kiperwasser & Goldberg 2016, arXiv 1603.04351).
        feature_size: features of words from elsewhere; they are mapped to at most twice `embedding_size`.
    """

    drop_rates: Float[Tensor, " W"]

    def __init__(
        self,
        word_counts: Sequence[int],
        num_characters: int,
        num_tags: Sequence[int],
        crfs: Sequence[CRF],
        build_cell: Callable[[int, int], Cell],
        embedding_size: int = 100,
        character_size: int = 64,
        spelling_size: int = 128,
        hidden_size: int = 256,
        num_layers: int = 2,
        dropout: float = 0.4,
        word_dropout: float = 0.25,
        feature_size: int = 0,
    ):
        super().__init__()
        self.embedding = nn.Embedding(len(word_counts) + 2, embedding_size, padding_idx=0)
        self.character_embedding = nn.Embedding(num_characters, character_size, padding_idx=0)
        for table in (self.embedding, self.character_embedding):
            nn.init.normal_(table.weight, std=0.1)
        self.spelling = Bidirectional(
            build_cell(character_size, spelling_size), build_cell(character_size, spelling_size)
        )
        both = (self.spelling.forward_layer.cell, self.spelling.backward_layer.cell)
        self.spelling_map = nn.Linear(sum(cell.state_sizes[0] for cell in both), spelling_size)
        mapped_size = min(feature_size, 2 * embedding_size)
        self.feature_map = nn.Linear(feature_size, mapped_size) if feature_size else nn.Identity()
        layers: list[Bidirectional] = []
        for _ in range(num_layers):
            size = layers[-1].output_size if layers else embedding_size + spelling_size + mapped_size
            layers.append(Bidirectional(build_cell(size, hidden_size), build_cell(size, hidden_size)))
        self.stack = Stack(layers, dropout)
        self.heads = nn.ModuleList(nn.Linear(self.stack.output_size, count) for count in num_tags)
        self.crfs = nn.ModuleList(crfs)
        self.dropout, self.feature_dropout = LockedDropout(dropout), LockedDropout(dropout / 2)
        self.character_dropout = nn.Dropout(dropout / 2)
        rates = [0.0, 0.0, *(word_dropout / (word_dropout + count) for count in word_counts)]
        self.register_buffer("drop_rates", torch.tensor(rates), persistent=False)

    def initial_state(self, batch_size: int) -> Any:
        """Nothing: sentences stand alone."""
        return ()

    def forward(self, batch: TaggingBatch) -> Float[Tensor, "T B O"]:
        """What the heads read."""
        words = batch.words
        if self.training:
            dropped = torch.rand(words.shape, device=words.device) < self.drop_rates[words]
            words = torch.where(dropped, 1, words)
        spelled = self.spell(batch.characters, batch.spellings)
        x = torch.cat(
            [self.embedding(words), spelled[batch.types], self.feature_map(self.feature_dropout(batch.features))], -1
        )
        return self.dropout(self.stack(self.dropout(x), lengths=batch.lengths).output)

    def spell(self, characters: Int[Tensor, "L U"], lengths: Int[Tensor, " U"]) -> Float[Tensor, "U S"]:
        """Features of each spelling from its characters; the few long ones are read apart, so that padding stays small."""
        is_short = lengths <= _SHORT
        groups = [rows for rows in (is_short.nonzero().squeeze(1), (~is_short).nonzero().squeeze(1)) if len(rows)]
        found = [self._spell(characters[: int(lengths[rows].max()), rows], lengths[rows]) for rows in groups]
        return torch.cat(found)[torch.cat(groups).argsort()]

    def _spell(self, characters: Int[Tensor, "L U"], lengths: Int[Tensor, " U"]) -> Float[Tensor, "U S"]:
        x = self.character_dropout(self.character_embedding(characters))
        layers = self.spelling.forward_layer, self.spelling.backward_layer
        last = torch.cat([layer(x, lengths=lengths).state[0] for layer in layers], -1)
        return torch.tanh(self.spelling_map(self.character_dropout(last)))

    def logits(self, outputs: Float[Tensor, "*N O"]) -> list[Float[Tensor, "*N V"]]:
        """Unnormalized log-probabilities of the tags of each target."""
        return [head(outputs) for head in self.heads]

    def loss(self, batch: TaggingBatch, state: Any = None) -> LossOutput:
        """-log p(tags) in nats, summed over words and targets and divided by the number of targets."""
        outputs = self(batch)
        nats = outputs.new_zeros(())
        for (logits, crf), targets in zip(self._emissions(outputs), batch.targets, strict=True):
            if crf.learned:
                nats = nats - crf.log_likelihood(logits, targets, batch.lengths).sum()
            else:
                nats = nats + nn.functional.cross_entropy(
                    logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
                )
        return LossOutput(nats / len(batch.targets), int(batch.lengths.sum()), (), nats.new_zeros(()))

    @torch.no_grad()
    def decode(self, batch: TaggingBatch, count: int) -> list[list[list[Path]]]:
        """For each target and sentence the `count` likeliest ways to tag it, the likeliest first."""
        return [crf.decode(logits, batch.lengths, count) for logits, crf in self._emissions(self(batch))]

    @torch.no_grad()
    def best(self, batch: TaggingBatch) -> list[list[list[int]]]:
        """For each target and sentence the tags of the likeliest way."""
        found = []
        for logits, crf in self._emissions(self(batch)):
            tags = logits.argmax(-1).t() if crf.is_free else crf.viterbi(logits, batch.lengths)[0][:, 0]
            found.append([row[:length] for row, length in zip(tags.tolist(), batch.lengths.tolist(), strict=True)])
        return found

    def _emissions(self, outputs: Float[Tensor, "T B O"]) -> Iterator[tuple[Float[Tensor, "T B V"], CRF]]:
        return zip(self.logits(outputs), cast(Iterable[CRF], self.crfs), strict=True)
