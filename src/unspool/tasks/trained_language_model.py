"""A trained language model as a user holds it: it writes, and measures texts."""

from collections.abc import Iterator
from typing import Protocol

import torch

from unspool.config import require
from unspool.data import Tokenizer
from unspool.errors import ConfigError
from unspool.models import LanguageModel, Writer
from unspool.search import Sampling

_BLOCK = 16  # symbols that are drawn at once: enough to hide the call, few enough to show text as it comes


class _Tokens(Protocol):
    """What is asked of the task."""

    tokenizer: Tokenizer
    is_backward: bool

    def evaluate(self, model: LanguageModel, data: str) -> dict[str, float]: ...


class TrainedLanguageModel:
    """A language model to write with.

    Attributes:
        task: its data settings and tokenizer.
        model: the network, in evaluation mode.
    """

    def __init__(self, task: _Tokens, model: LanguageModel):
        self.task, self.model = task, model.eval()

    def generate(
        self,
        prompt: str = "",
        length: int = 200,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        unknown: str = "error",
    ) -> str:
        """The text that follows a prompt, without the prompt; arguments as in `stream`."""
        return "".join(self.stream(prompt, length, temperature, top_k, top_p, seed, unknown))

    def stream(
        self,
        prompt: str = "",
        length: int = 200,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        unknown: str = "error",
    ) -> Iterator[str]:
        """The text that follows a prompt, piece by piece as it is drawn.

        Args:
            prompt: read before the first symbol is drawn; without one, a line break.
            length: symbols to draw, in the model's unit.
            temperature, top_k, top_p: see `unspool.search.Sampling`.
            seed: equal seeds give equal texts.
            unknown: what to do with symbols of the prompt that the model does not know: ``error``, or ``token`` to
                read them as the unknown symbol.

        Raises:
            ConfigError: an argument is out of range, the prompt holds an unknown symbol, or the model reads backwards.
        """
        if self.task.is_backward:
            raise ConfigError("this model reads texts from their end; only one that reads forwards can go on writing.")
        sampling = Sampling(temperature, top_k, top_p)
        require(length >= 0, "length", length, "at least 0")
        require(0 <= seed < 2**63, "seed", seed, "at least 0 and below 2**63")
        require(unknown in ("error", "token"), "unknown", unknown, "'error' or 'token'")
        return self._draw(self._encode_prompt(prompt, unknown), length, sampling, seed)

    def evaluate(self, data: str) -> dict[str, float]:
        """Metrics on a text file; see `LanguageModeling.evaluate`."""
        return self.task.evaluate(self.model, data)

    def _encode_prompt(self, prompt: str, unknown: str) -> list[int]:
        tokenizer = self.task.tokenizer
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ConfigError("prompt: not valid text; it holds bytes that are no UTF-8.")
        strange = tokenizer.unknown_in(prompt)
        if strange and unknown == "error":
            shown = ", ".join(f"{s!r} (U+{ord(s):04X})" if len(s) == 1 else repr(s) for s in strange[:5])
            raise ConfigError(
                f"prompt: {shown} not in the model's vocabulary; leave it out, or read it as the unknown symbol "
                "with --unknown token."
            )
        return tokenizer.encode(prompt) or tokenizer.encode("\n") or [0]

    def _draw(self, prompt: list[int], length: int, sampling: Sampling, seed: int) -> Iterator[str]:
        tokenizer = self.task.tokenizer
        before, pending = prompt[-1], list[int]()
        for token in self._tokens(prompt, length, sampling, seed):
            pending.append(token)
            text = tokenizer.decode([before, *pending])[len(tokenizer.decode([before])) :]
            if text.endswith("\ufffd") and len(pending) < 8:
                continue  # a character whose bytes are not all there yet
            yield text
            before, pending = pending[-1], []
        if pending:
            yield tokenizer.decode(pending)

    def _tokens(self, prompt: list[int], length: int, sampling: Sampling, seed: int) -> Iterator[int]:
        writer, unknown = Writer(self.model, seed=seed), self.task.tokenizer.unknown
        forbidden = () if unknown is None else (unknown,)
        tokens = torch.tensor(prompt, device=self.model.embedding.weight.device).unsqueeze(1)
        writer.read(tokens[:-1])
        for begin in range(0, length, _BLOCK):
            tokens = writer.write(tokens[-1], min(_BLOCK, length - begin), sampling, forbidden)
            yield from tokens.squeeze(1).tolist()
