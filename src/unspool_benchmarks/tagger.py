"""A tagger's whole training step: characters to words by a BiLSTM, words to tags by two more; all lengths unequal.

32 sentences with about 440 words of about 5.6 characters; words embedded in 100 features, characters in 30; the BiLSTM
over characters has 2 x 50 units, the two over words 2 x 200 each: some 4.7 Gflop a step.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import unspool
from unspool_benchmarks.case import OURS, Case, Context, Plan, Size, plan
from unspool_benchmarks.floors import LayerShape, layer_flops
from unspool_benchmarks.streaming import layer_weights
from unspool_benchmarks.training_step import TrainingStep

SIZE = Size(25, 32, 200)  # words of the longest sentence, sentences, units of each direction over words
_NUM_WORDS, _NUM_CHARACTERS, _NUM_TAGS = 10_000, 80, 17
_WORD_FEATURES, _CHARACTER_FEATURES = 100, 30
_NUM_LAYERS, _LONGEST_WORD = 2, 10

Encoder = Callable[[Tensor, Tensor], Tensor]
"""Padded rows [T, B, F] and lengths [B] to what is wanted of them."""


class Batch(NamedTuple):
    """Sentences: words [T, B] and tags [T, B] padded; the characters of all N real words [C, N]; both lengths."""

    words: Tensor
    tags: Tensor
    sentence_lengths: Tensor
    characters: Tensor
    word_lengths: Tensor


class Tables(nn.Module):
    """All that is no recurrence, alike for both."""

    def __init__(self, word_units: int):
        super().__init__()
        self.words = nn.Embedding(_NUM_WORDS, _WORD_FEATURES)
        self.characters = nn.Embedding(_NUM_CHARACTERS, _CHARACTER_FEATURES)
        self.output = nn.Linear(2 * word_units, _NUM_TAGS)

    def loss(self, batch: Batch, spell: Encoder, read: Encoder) -> Tensor:
        """Mean cross-entropy of the tags of real words; `spell` gives [N, 100], `read` [T, B, 400]."""
        real = torch.arange(len(batch.words))[:, None] < batch.sentence_lengths
        spelled = spell(self.characters(batch.characters), batch.word_lengths)
        placed = spelled.new_zeros(*real.shape, spelled.shape[-1]).masked_scatter(real[..., None], spelled)
        features = read(torch.cat([self.words(batch.words), placed], -1), batch.sentence_lengths)
        return nn.functional.cross_entropy(self.output(features[real]), batch.tags[real])


def tagger(context: Context) -> Iterator[Plan]:
    """Forward, loss, backward, clipping and SGD of a BiLSTM tagger; torch with packed sequences."""
    for size in context.sizes or [SIZE]:
        yield plan(f"BiLSTM {size}", partial(tagger_case, size, context))


def tagger_case(size: Size, context: Context) -> Case:
    """One batch; a quarter as many units over characters as over words."""
    torch.manual_seed(0)
    units, character_units = size.hidden_size, max(1, size.hidden_size // 4)
    batch, tables = synthetic_batch(size), Tables(units)
    character_lstm = nn.LSTM(_CHARACTER_FEATURES, character_units, bidirectional=True)
    word_lstm = nn.LSTM(_WORD_FEATURES + 2 * character_units, units, _NUM_LAYERS, bidirectional=True)
    theirs = _torch_step(batch, tables, character_lstm, word_lstm)
    exact = theirs.numbers()
    tokens, characters = int(batch.sentence_lengths.sum()), int(batch.word_lengths.sum())
    flops = _flops(tokens, characters, character_lstm, word_lstm)
    return Case(
        settings={
            "T": size.num_steps,
            "B": size.batch_size,
            "H": units,
            "tokens": tokens,
            "characters": characters,
            "gflop": flops / 1e9,
        },
        contenders=[
            _our_step(batch, tables, character_lstm, word_lstm).contender(OURS),
            theirs.contender("torch_packed"),
        ],
        reference=lambda: exact,
        floor_seconds=flops / context.limits.flops,
    )


def synthetic_batch(size: Size) -> Batch:
    """Random sentences of random words of random lengths."""
    sentence_lengths = torch.randint(max(1, size.num_steps // 8), size.num_steps + 1, (size.batch_size,))
    num_words, num_steps = int(sentence_lengths.sum()), int(sentence_lengths.max())
    word_lengths = torch.randint(1, _LONGEST_WORD + 1, (num_words,))
    return Batch(
        torch.randint(_NUM_WORDS, (num_steps, size.batch_size)),
        torch.randint(_NUM_TAGS, (num_steps, size.batch_size)),
        sentence_lengths,
        torch.randint(_NUM_CHARACTERS, (int(word_lengths.max()), num_words)),
        word_lengths,
    )


def _torch_step(batch: Batch, tables: Tables, character_lstm: nn.LSTM, word_lstm: nn.LSTM) -> TrainingStep:
    def pack(x: Tensor, lengths: Tensor) -> Any:
        return nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)

    def spell(x: Tensor, lengths: Tensor) -> Tensor:
        _, (h, _) = character_lstm(pack(x, lengths))
        return torch.cat([h[0], h[1]], -1)

    def read(x: Tensor, lengths: Tensor) -> Tensor:
        return nn.utils.rnn.pad_packed_sequence(word_lstm(pack(x, lengths))[0])[0]

    parameters: dict[str, Tensor] = dict(tables.named_parameters())
    parameters |= {f"character.{name}": value for name, value in character_lstm.named_parameters()}
    parameters |= {f"word.{name}": value for name, value in word_lstm.named_parameters()}
    return TrainingStep(lambda: tables.loss(batch, spell, read), parameters)


def _our_step(batch: Batch, torch_tables: Tables, character_lstm: nn.LSTM, word_lstm: nn.LSTM) -> TrainingStep:
    tables, characters = Tables(word_lstm.hidden_size), _bidirectional(character_lstm, 0)
    tables.load_state_dict(torch_tables.state_dict())
    words = unspool.Stack([_bidirectional(word_lstm, number) for number in range(_NUM_LAYERS)])

    def spell(x: Tensor, lengths: Tensor) -> Tensor:
        ahead, behind = characters(x, lengths=lengths).state
        return torch.cat([ahead.h, behind.h], -1)

    def read(x: Tensor, lengths: Tensor) -> Tensor:
        return words(x, lengths=lengths).output

    parameters: dict[str, Tensor] = dict(tables.named_parameters())
    parameters |= _named("character", 0, characters)
    for number, layer in enumerate(words.layers):
        parameters |= _named("word", number, layer)
    return TrainingStep(lambda: tables.loss(batch, spell, read), parameters)


def _bidirectional(lstm: nn.LSTM, number: int) -> unspool.Bidirectional:
    def cell(suffix: str) -> unspool.LSTM:
        weights = layer_weights(lstm, number, suffix)
        copy = unspool.LSTM(weights["weight_ih"].shape[1], lstm.hidden_size)
        copy.load_state_dict(weights)
        return copy

    return unspool.Bidirectional(cell(""), cell("_reverse"))


def _named(prefix: str, number: int, layer: Any) -> dict[str, Tensor]:
    """Parameters of both directions under PyTorch's names."""
    directions = {"": layer.forward_layer.cell, "_reverse": layer.backward_layer.cell}
    return {
        f"{prefix}.{name}_l{number}{suffix}": value
        for suffix, cell in directions.items()
        for name, value in cell.named_parameters()
    }


def _flops(tokens: int, characters: int, character_lstm: nn.LSTM, word_lstm: nn.LSTM) -> float:
    """Of all products over real steps, forward and backward."""
    units = word_lstm.hidden_size
    shapes = [LayerShape(characters, 1, character_lstm.input_size, character_lstm.hidden_size, 4)]
    shapes += [LayerShape(tokens, 1, size, units, 4) for size in (word_lstm.input_size, 2 * units)]
    return sum(2 * layer_flops(shape, training=True) for shape in shapes) + 6.0 * tokens * 2 * units * _NUM_TAGS
