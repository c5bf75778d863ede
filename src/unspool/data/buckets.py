"""Batches of whole sequences of like length, each a pure function of its place, so that a run can go on from anywhere."""

from collections.abc import Sequence

import numpy as np

from unspool.errors import ConfigError


class Buckets:
    """Which sequences make up which batch.

    Sequences are sorted by length, equal lengths in an order that the seed and the epoch decide, and cut where a batch
    would hold more than `batch_units` units, padding included; the order of batches is drawn too. A sequence longer than
    that is a batch of its own: none is left out.

    Args:
        lengths: of all sequences.
        batch_units: units of a batch: its sequences times the longest of them.
        seed: of the order; None for the order of lengths, always the same.
    """

    def __init__(self, lengths: Sequence[int], batch_units: int, seed: int | None = None):
        if batch_units < 1:
            raise ConfigError(f"batch_units must be at least 1, got {batch_units}.")
        self.lengths, self.seed = np.asarray(lengths, dtype=np.int64), seed
        self.bounds, first = [0], 0
        for place, length in enumerate(np.sort(self.lengths)):
            if place > first and (place - first + 1) * max(1, length) > batch_units:
                self.bounds.append(place)
                first = place
        if len(self.lengths):
            self.bounds.append(len(self.lengths))
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.bounds) - 1

    def rows(self, epoch: int, index: int) -> list[int]:
        """The sequences of a batch."""
        if self._epoch is None or self._epoch[0] != epoch:
            chance = np.random.default_rng((0 if self.seed is None else self.seed, epoch))
            ties = np.arange(len(self.lengths)) if self.seed is None else chance.permutation(len(self.lengths))
            order = ties[np.argsort(self.lengths[ties], kind="stable")]
            batches = np.arange(len(self)) if self.seed is None else chance.permutation(len(self))
            self._epoch = epoch, order, batches
        _, order, batches = self._epoch
        place = batches[index]
        return order[self.bounds[place] : self.bounds[place + 1]].tolist()
