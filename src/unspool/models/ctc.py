"""Connectionist temporal classification: symbols from frames, with every way to align the two summed.

Graves, Fernandez, Gomez & Schmidhuber 2006 (ICML, "Connectionist temporal classification"). Frames side by side at a lower rate:
Sak, Senior, Rao & Beaufays 2015 (arXiv 1507.06947). A look-ahead after one-directional layers: Wang et al. 2016 (ICLR
workshop, "Lookahead convolution layer for unidirectional recurrent neural networks").
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from unspool.cells import Cell
from unspool.config import require
from unspool.kernels import clear_padding
from unspool.layers import Bidirectional, LockedDropout, Recurrent, Stack
from unspool.models.language_model import LossOutput
from unspool.types import Bool, Float, Int, Tensor

BLANK = 0
"""The symbol of no symbol."""


class SpeechBatch(NamedTuple):
    """Recordings side by side, with what is said in them.

    Attributes:
        frames: [T, B, F], zero beyond lengths.
        lengths: [B] frames.
        targets: [B, L] symbols, from 1 on; anything beyond their lengths.
        target_lengths: [B].
    """

    frames: Float[Tensor, "T B F"]
    lengths: Int[Tensor, " B"]
    targets: Int[Tensor, "B L"]
    target_lengths: Int[Tensor, " B"]

    def to(self, device: torch.device) -> "SpeechBatch":
        """The batch on a device."""
        return SpeechBatch(*(tensor.to(device) for tensor in self))

    def last_step(self) -> "SpeechBatch":
        """The same batch: this loss is of whole alignments and has no last step."""
        return self


def needed_steps(targets: Int[Tensor, "B L"], lengths: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Steps that targets need at least: one a symbol, and a blank between equal neighbours."""
    inside = torch.arange(1, targets.shape[1], device=targets.device) < lengths.unsqueeze(1)
    return lengths + ((targets[:, 1:] == targets[:, :-1]) & inside).sum(1)


def ctc_nats(
    chances: Float[Tensor, "S B V"],
    steps: Int[Tensor, " B"],
    targets: Int[Tensor, "B L"],
    target_lengths: Int[Tensor, " B"],
) -> tuple[Float[Tensor, ""], Bool[Tensor, " B"]]:
    """-log p(targets) in nats, summed over the rows that can be aligned at all, and which these are.

    A row whose targets need more steps than there are counts nothing and gets no gradient.

    Args:
        chances: log-probabilities at each step.
        steps: [B] of each row, at most S.
        targets: as in `SpeechBatch`.
        target_lengths: [B].
    """
    feasible = (needed_steps(targets, target_lengths) <= steps) & (steps > 0)
    rows = feasible.nonzero().squeeze(1)
    if not len(rows):
        return chances.sum() * 0.0, feasible
    nats = functional.ctc_loss(
        chances[:, rows], targets[rows], steps[rows], target_lengths[rows], blank=BLANK, reduction="sum"
    )
    return nats, feasible


class CTCModel(nn.Module):
    """Frames to log-probabilities of symbols and blank, fewer a second than frames.

    ::

        window_s = frames s * stride .. s * stride + window - 1, side by side, zero beyond the end
        x_s = window_s, or relu(W window_s + b) with `channels`: a strided convolution
        h = stack over x;   with `look_ahead`: h'_s = sum_j w_j * h_{s+j}, j = 0 .. look_ahead, w_j of each unit
        log p_s = log softmax(V h_s + c)

    Args:
        num_features: F, of a frame.
        num_symbols: V, the blank included.
        build_cell: makes a cell from an input size and a hidden size.
        hidden_size, num_layers: of the stack; with both directions each has so many units.
        bidirectional: read both ways, which no stream can.
        stride: frames from one step to the next.
        window: frames that a step reads, at least `stride`.
        channels: of the convolution; 0: none.
        look_ahead: steps that a one-directional model looks ahead.
        dropout: of what is handed from layer to layer and of the last output, locked over a recording.
        layer_norm, residual: as in `Stack`.
    """

    def __init__(
        self,
        num_features: int,
        num_symbols: int,
        build_cell: Callable[[int, int], Cell],
        hidden_size: int = 320,
        num_layers: int = 3,
        bidirectional: bool = True,
        stride: int = 3,
        window: int = 5,
        channels: int = 0,
        look_ahead: int = 0,
        dropout: float = 0.3,
        layer_norm: bool = True,
        residual: bool = False,
    ):
        super().__init__()
        require(window >= stride, "window", window, f"at least stride, {stride}, so that every frame is read")
        require(not (bidirectional and look_ahead), "look_ahead", look_ahead, "0 in a bidirectional model")
        self.stride, self.window, self.look_ahead, self.bidirectional = stride, window, look_ahead, bidirectional
        size = channels or window * num_features
        self.convolution = nn.Linear(window * num_features, channels) if channels else None
        width = hidden_size * (2 if bidirectional else 1)
        layers: list[nn.Module] = []
        for inputs in [size, *[width] * (num_layers - 1)]:
            if bidirectional:
                layers.append(Bidirectional(build_cell(inputs, hidden_size), build_cell(inputs, hidden_size)))
            else:
                layers.append(Recurrent(build_cell(inputs, hidden_size)))
        self.stack = Stack(layers, dropout, layer_norm=layer_norm, residual=residual)
        self.dropout = LockedDropout(dropout)
        width = self.stack.output_size
        self.ahead = nn.Parameter(torch.eye(1, look_ahead + 1).T.repeat(1, width)) if look_ahead else None
        self.output = nn.Linear(width, num_symbols)

    def initial_state(self, batch_size: int) -> Any:
        """Nothing: recordings stand alone."""
        return ()

    def forward(
        self, frames: Float[Tensor, "T B F"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "S B V"], Int[Tensor, " B"]]:
        """Log-probabilities of every step, and how many steps each recording has."""
        steps = (lengths + self.stride - 1) // self.stride
        count = -(-len(frames) // self.stride)
        frames = clear_padding(frames, lengths)
        padded = functional.pad(frames, (0, 0, 0, 0, 0, (count - 1) * self.stride + self.window - len(frames)))
        windows = padded.unfold(0, self.window, self.stride).permute(0, 1, 3, 2).flatten(2)
        h = self.stack(self.read(windows), lengths=steps.clamp(min=1)).output
        if self.ahead is not None:
            h = self.look(functional.pad(clear_padding(h, steps), (0, 0, 0, 0, 0, self.look_ahead)))
        return self.classify(self.dropout(h)), steps

    def read(self, windows: Float[Tensor, "*N W"]) -> Float[Tensor, "*N I"]:
        """What the recurrence reads of windows."""
        return windows if self.convolution is None else torch.relu(self.convolution(windows))

    def look(self, h: Float[Tensor, "P *B H"]) -> Float[Tensor, "S *B H"]:
        """Every step with those that follow it; the last `look_ahead` are only looked at."""
        if self.ahead is None:
            return h
        count = len(h) - self.look_ahead
        found = h[:count] * self.ahead[0]
        for place in range(1, self.look_ahead + 1):
            found = found + h[place : place + count] * self.ahead[place]
        return found

    def classify(self, h: Float[Tensor, "*N H"]) -> Float[Tensor, "*N V"]:
        """Log-probabilities of symbols."""
        return self.output(h).float().log_softmax(-1)

    def loss(self, batch: SpeechBatch, state: Any = None) -> LossOutput:
        """-log p of what is said in nats, over the number of symbols; rows that cannot be aligned count nothing."""
        chances, steps = self(batch.frames, batch.lengths)
        nats, feasible = ctc_nats(chances, steps, batch.targets, batch.target_lengths)
        return LossOutput(nats, int(batch.target_lengths[feasible].sum()), (), nats.new_zeros(()))
