"""Batches of one long stream: cut into lanes side by side, read in steps, so that the state carries over exactly."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unspool.errors import ConfigError
from unspool.types import Bool, Int

IGNORED = -100
"""The target of a position that does not count, PyTorch's own default."""


class StreamBatch(NamedTuple):
    """Some steps of all lanes.

    inputs: the tokens read.  targets: the token after each, or `IGNORED`.  reset: where a lane passes from the end of
    the stream to its beginning, or None.
    """

    inputs: Int[Tensor, "T B"]
    targets: Int[Tensor, "T B"]
    reset: Bool[Tensor, "T B"] | None = None

    def to(self, device: torch.device) -> "StreamBatch":
        """The batch on a device."""
        return StreamBatch(*(None if tensor is None else tensor.to(device) for tensor in self))  # type: ignore[arg-type]

    def last_step(self) -> "StreamBatch":
        """The same batch, of which only the last step counts."""
        targets = torch.full_like(self.targets, IGNORED)
        targets[-1:] = self.targets[-1:]
        return self._replace(targets=targets)


class StreamBatches:
    """All batches of an epoch over a stream of tokens, each a pure function of its place.

    ::

        stream   a b c d e f g h i j k          3 lanes, 2 steps a batch
        lanes    a b | c d    e f | g h    i j | .        '.' does not count: the lane is shorter

    Lane l reads the tokens l*S, l*S + 1, ... with S = ceil((N - 1) / lanes), and predicts each next one, so that every
    token but the first of the stream is predicted exactly once an epoch.

    Args:
        tokens: the stream, N >= 2 numbers; may be mapped from disk.
        batch_size: number of lanes.
        num_steps: steps in a batch.
        seed: shifts the beginning of the lanes in every epoch by a random number of tokens, around the end of the
            stream, so that batches do not always break at the same places; None for no shift.
        reset_share: probability that a lane begins a batch from a fresh state, so that a model does not come to rely on
            states that only hours of reading lead to; chance comes from the seed.
    """

    def __init__(
        self, tokens: np.ndarray, batch_size: int, num_steps: int, seed: int | None = None, reset_share: float = 0.0
    ):
        if batch_size < 1 or num_steps < 1:
            raise ConfigError(f"batch_size and bptt_steps must be at least 1, got {batch_size} and {num_steps}.")
        self.tokens, self.seed, self.num_steps, self.reset_share = tokens, seed, num_steps, reset_share
        self.num_predictions = len(tokens) - 1
        self.batch_size = min(batch_size, self.num_predictions)
        self.lane_size = math.ceil(self.num_predictions / self.batch_size)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self.lane_size / self.num_steps)

    def batch(self, epoch: int, index: int) -> StreamBatch:
        """The batch of a place; `index` 0 begins from a fresh state."""
        shift = (
            0 if self.seed is None else int(np.random.default_rng((self.seed, epoch)).integers(self.num_predictions))
        )
        steps = np.arange(index * self.num_steps, min((index + 1) * self.num_steps, self.lane_size))
        inside = steps[:, None] + np.arange(self.batch_size)[None, :] * self.lane_size
        # a lane ends where the next begins; the last lanes may be shorter, or empty
        counts = inside < self.num_predictions
        places = (inside + shift) % self.num_predictions
        inputs = torch.from_numpy(self.tokens[places].astype(np.int64))
        targets = torch.from_numpy(np.where(counts, self.tokens[places + 1].astype(np.int64), IGNORED))
        begins = (places == 0) & (inside > 0)
        if self.reset_share and index:
            chance = np.random.default_rng((self.seed or 0, epoch, index))
            begins[0] |= chance.random(self.batch_size) < self.reset_share
        return StreamBatch(inputs, targets, torch.from_numpy(begins) if begins.any() else None)
