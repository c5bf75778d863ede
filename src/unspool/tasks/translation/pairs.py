"""Pairs of sentences: from aligned files, as numbers, and in batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self
from zipfile import BadZipFile

import numpy as np
import torch

from unspool.data.batching import IGNORED
from unspool.data.buckets import Buckets
from unspool.errors import CheckpointError, DataError
from unspool.files import read_lines
from unspool.models.seq2seq import BEGIN, END, PairBatch
from unspool.tasks.translation.settings import is_table


def read_pairs(source: str, target: str) -> list[tuple[str, str]]:
    """Aligned lines of two files, or the two columns of one.

    Raises:
        DataError: the files have not as many lines, or a row has not two columns.
    """
    if is_table(source):
        rows = [line.split("\t") for line in read_lines(source)]
        for number, row in enumerate(rows, start=1):
            if len(row) != 2:
                raise DataError(f"{source}:{number}: {len(row)} columns, expected 2 with a tab between.")
        return [(row[0].strip(), row[1].strip()) for row in rows]
    left, right = ([line.strip() for line in read_lines(name)] for name in (source, target))
    if len(left) != len(right):
        raise DataError(
            f"{source} has {len(left):,} lines and {target} {len(right):,}; they must be aligned line by line."
        )
    return list(zip(left, right, strict=True))


class Pairs(NamedTuple):
    """Pairs as numbers, all sentences of a side one after the other.

    source, target: [N] numbers.  source_lengths, target_lengths: of each sentence, the ends not counted.
    """

    source: np.ndarray
    source_lengths: np.ndarray
    target: np.ndarray
    target_lengths: np.ndarray

    @classmethod
    def of(cls, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> Self:
        """From lists of numbers."""

        def flat(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
            lengths = np.array([len(row) for row in rows], np.int64)
            return np.array([number for row in rows for number in row], np.int32), lengths

        return cls(*flat(sources), *flat(targets))

    def save(self, path: Path) -> None:
        """Writes them into a ``.npz`` file."""
        np.savez(path, **self._asdict())

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            with np.load(path) as stored:
                return cls(**{name: stored[name] for name in cls._fields})
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); the run's folder is damaged.") from error


class PairBatches:
    """Pairs in batches of like length."""

    def __init__(self, pairs: Pairs, batch_symbols: int, seed: int | None = None):
        self.pairs = pairs
        longer = np.maximum(pairs.source_lengths, pairs.target_lengths) + 1
        self.buckets = Buckets(longer.tolist(), batch_symbols, seed)
        self.source_begins = np.cumsum(pairs.source_lengths) - pairs.source_lengths
        self.target_begins = np.cumsum(pairs.target_lengths) - pairs.target_lengths
        self.batch_size = 1  # a state's rows; pairs carry none

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.buckets)

    def batch(self, epoch: int, index: int) -> PairBatch:
        """The batch of a place."""
        return make_batch(*self.sides(np.array(self.buckets.rows(epoch, index))))

    def sides(self, rows: np.ndarray) -> tuple[list[list[int]], list[list[int]]]:
        """The sources and the targets of some pairs."""
        pairs = self.pairs
        return (
            _cut(pairs.source, self.source_begins[rows], pairs.source_lengths[rows]),
            _cut(pairs.target, self.target_begins[rows], pairs.target_lengths[rows]),
        )


def make_batch(source: Sequence[Sequence[int]], target: Sequence[Sequence[int]]) -> PairBatch:
    """Pairs side by side, with begins and ends."""
    read, read_lengths = source_batch(source)
    lengths = torch.tensor([len(row) + 1 for row in target])
    shape = int(lengths.max()), len(target)
    inputs, targets = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    inputs[0] = BEGIN
    for b, row in enumerate(target):
        own = torch.tensor(row, dtype=torch.long)
        inputs[1 : len(row) + 1, b] = own
        targets[: len(row), b] = own
        targets[len(row), b] = END
    return PairBatch(read, read_lengths, inputs, targets, lengths)


def source_batch(source: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources side by side, [S, B], an end after each, and their lengths."""
    lengths = torch.tensor([len(row) + 1 for row in source])
    read = torch.zeros(int(lengths.max()), len(source), dtype=torch.long)
    for b, row in enumerate(source):
        read[: len(row), b] = torch.tensor(row, dtype=torch.long)
        read[len(row), b] = END
    return read, lengths


def _cut(numbers: np.ndarray, begins: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    return [numbers[begin : begin + length].tolist() for begin, length in zip(begins, lengths, strict=True)]
