"""Writing: symbols drawn from a language model, each read before the next is drawn, many of them in one native call."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from unspool.config import require
from unspool.errors import ConfigError, DivergenceError, ShapeError
from unspool.layers import Stream
from unspool.layers.stream import has_faster_way, refusal
from unspool.models.language_model import LanguageModel
from unspool.search import Sampling, draw
from unspool.types import Int, Tensor


class Writer:
    """A language model that goes on writing: some texts side by side, with a state and a sequence of chance of their own.

    ::

        writer = Writer(model.eval(), batch_size=1, seed=0)
        writer.read(prompt[:-1])                                  # [T, 1]
        text = writer.write(prompt[-1], 200, Sampling(0.8))       # [200, 1]

    In float32 on a CPU the whole loop (embedding, stack, softmax, temperature, top-k, top-p, draw) is one native call.
    Elsewhere the model's own `step` runs; `reason` says why. The distribution is that of
    `unspool.search.filter_logits` in both, the chance is not: equal seeds give equal texts on one way only. On the
    native one a draw depends on the seed, on its number and on its row, and on nothing else (Philox4x32-10).

    Args:
        model: in evaluation mode.
        batch_size: B, texts side by side.
        seed: of chance; at least 0 and below 2**63.
        narrow: weights, and what they are multiplied with, in bfloat16 (on the native way).

    Attributes:
        reason: why the native engine does not run this model; None where it does.

    Raises:
        ConfigError: the model is in training mode.
    """

    def __init__(self, model: LanguageModel, batch_size: int = 1, seed: int = 0, narrow: bool = False):
        require(0 <= seed < 2**63, "Writer: seed", seed, "at least 0 and below 2**63")
        if any(module.training for module in model.modules()):
            raise ConfigError(
                "Writer: the model is in training mode, in which chance takes part; call its eval() first."
            )
        self.model, self.batch_size, self._seed, self._drawn = model, batch_size, seed, 0
        self.reason = _refusal(model)
        self._stream: Stream | None = None
        if self.reason is None:
            self._stream = Stream(model.stack, batch_size, narrow, _maps(model))
        else:
            if has_faster_way(model):
                warnings.warn(f"Writer: a slow loop in PyTorch writes: {self.reason}.", RuntimeWarning, stacklevel=2)
            self._generator = torch.Generator().manual_seed(seed)
            self._state = model.initial_state(batch_size)

    def explain(self) -> str:
        """Which way it writes, and why."""
        return f"PyTorch: {self.reason}" if self._stream is None else self._stream.explain()

    @property
    def state(self) -> Any:
        """The stack's state after all that has been read."""
        return self._state if self._stream is None else self._stream.state

    @state.setter
    def state(self, state: Any) -> None:
        if self._stream is None:
            self._state = state
        else:
            self._stream.state = state

    @torch.no_grad()
    def read(self, tokens: Int[Tensor, "T B"]) -> None:
        """Reads symbols without drawing any."""
        _check_tokens(tokens, (len(tokens), self.batch_size), self.model)
        if len(tokens):
            self.state = self.model.stack(self.model.embed(tokens), self.state).state

    @torch.no_grad()
    def write(
        self, tokens: Int[Tensor, " B"], count: int, sampling: Sampling = Sampling(), forbidden: Sequence[int] = ()
    ) -> Int[Tensor, "N B"]:
        """Reads one symbol of each row and draws `count` more, each of which is read before the next is drawn.

        The last one has not been read: it is the first of the next call.

        Args:
            tokens: the symbols to read first.
            count: how many to draw; at least 0.
            sampling: how to draw.
            forbidden: symbols that are never drawn.

        Raises:
            DivergenceError: the model's logits hold NaN or +inf, or no symbol is left to draw.
        """
        _check_tokens(tokens, (self.batch_size,), self.model)
        require(count >= 0, "Writer.write: count", count, "at least 0")
        if any(not 0 <= symbol < self.model.embedding.num_embeddings for symbol in forbidden):
            raise ConfigError(f"Writer.write: forbidden symbols must be in the vocabulary, got {list(forbidden)}.")
        if self._stream is None:
            return self._write_in_torch(tokens, count, sampling, forbidden)
        native, table = self._stream.native, self.model.embedding.weight.detach().contiguous()
        assert native is not None
        written = torch.empty((count + 1, self.batch_size), dtype=torch.long)
        written[0] = tokens
        chance = self._seed, self._drawn
        self._drawn += count
        if not native.write(table, written, sampling.temperature, sampling.top_k, sampling.top_p, forbidden, *chance):
            raise DivergenceError(
                "Writer.write: no symbol can be drawn; the model's logits are not finite, or all are forbidden."
            )
        return written[1:]

    def _write_in_torch(self, tokens: Tensor, count: int, sampling: Sampling, forbidden: Sequence[int]) -> Tensor:
        written = tokens.new_empty((count, self.batch_size))
        for place in range(count):
            logits, self._state = self.model.step(tokens, self._state)
            written[place] = tokens = draw(logits, sampling, self._generator, forbidden)
        return written


def _refusal(model: LanguageModel) -> str | None:
    kind, plain = type(model), LanguageModel
    if kind.step is not plain.step or kind.embed is not plain.embed or kind.logits is not plain.logits:
        return f"{kind.__name__} has a step of its own"
    maps = _maps(model)
    table = model.embedding.weight
    if table.dtype != torch.float32 or table.device.type != "cpu":
        return f"the embedding is {table.dtype} on {table.device}; it takes float32 on a CPU"
    return refusal(model.stack, maps)


def _maps(model: LanguageModel) -> list[nn.Linear]:
    return [m for m in (model.bridge, model.softmax) if isinstance(m, nn.Linear)]


def _check_tokens(tokens: Tensor, shape: tuple[int, ...], model: LanguageModel) -> None:
    if tokens.shape != shape or tokens.dtype != torch.long:
        raise ShapeError(
            f"Writer: tokens must be {list(shape)} of torch.int64, got {list(tokens.shape)} of {tokens.dtype}."
        )
    size = model.embedding.num_embeddings
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
        raise ConfigError(f"Writer: tokens must lie in 0..{size - 1}, got {int(tokens.min())}..{int(tokens.max())}.")
