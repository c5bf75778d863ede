"""Writing text: two LSTM layers of 512, 100 symbols, one after the other, each drawn from the model's distribution."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import unspool
from unspool.models import LanguageModel
from unspool.models import Writer as OurWriter
from unspool.search import Sampling
from unspool_benchmarks.case import OURS, Case, Contender, Context, Plan, plan
from unspool_benchmarks.contenders import to_numpy
from unspool_benchmarks.floors import step_floor
from unspool_benchmarks.streaming import layer_weights

_VOCABULARY_SIZE, _EMBEDDING_SIZE, _HIDDEN_SIZE, _NUM_LAYERS = 100, 128, 512, 2
_BATCH_SIZES = (1, 16)
_LENGTH = 20  # symbols that one timed call draws in each row

Writer = Callable[[int], Tensor]
"""``write(length)`` goes on writing: tokens [length, B]."""


class TorchWriter(nn.Module):
    """Embedding, layers and softmax of torch.nn, with the loop around them that one writes by hand."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.embedding = nn.Embedding(_VOCABULARY_SIZE, _EMBEDDING_SIZE)
        self.lstm = nn.LSTM(_EMBEDDING_SIZE, hidden_size, _NUM_LAYERS)
        self.softmax = nn.Linear(hidden_size, _VOCABULARY_SIZE)

    def step_by_lstm(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step by nn.LSTM with T = 1."""
        output, state = self.lstm(self.embedding(tokens)[None], state)
        return self.softmax(output[0]), state

    def step_by_cells(self, cells: list[nn.LSTMCell], tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step by nn.LSTMCell."""
        y, after = self.embedding(tokens), []
        for number, cell in enumerate(cells):
            after.append(cell(y, None if state is None else state[number]))
            y = after[-1][0]
        return self.softmax(y), after


def generation(context: Context) -> Iterator[Plan]:
    """Characters a second of a generator at batch 1 and 16, against eager nn.LSTM and nn.LSTMCell loops."""
    for hidden_size in dict.fromkeys(size.hidden_size for size in context.sizes) or [_HIDDEN_SIZE]:
        for batch_size in _BATCH_SIZES:
            name = f"LSTM {_NUM_LAYERS}x{hidden_size}, B {batch_size}"
            yield plan(name, partial(generation_case, batch_size, hidden_size, context))


def our_writer(model: LanguageModel, batch_size: int, temperature: float) -> Writer:
    """A writer that begins with the symbol 0."""
    writer, last = OurWriter(model, batch_size), torch.zeros(batch_size, dtype=torch.long)

    def write(length: int) -> Tensor:
        nonlocal last
        written = writer.write(last, length, Sampling(temperature))
        last = written[-1]
        return written

    return write


def generation_case(batch_size: int, hidden_size: int, context: Context) -> Case:
    """One batch size."""
    torch.manual_seed(0)
    plain = TorchWriter(hidden_size).eval()
    cells = [nn.LSTMCell(_EMBEDDING_SIZE if not n else hidden_size, hidden_size) for n in range(_NUM_LAYERS)]
    for number, cell in enumerate(cells):
        cell.load_state_dict(layer_weights(plain.lstm, number))
    model = _our_model(plain)
    torch_lstm = _contender("torch", partial(_torch_writer, plain.step_by_lstm, batch_size))
    weights = sum(p.numel() for p in (*plain.lstm.parameters(), *plain.softmax.parameters()))
    return Case(
        settings={"layers": _NUM_LAYERS, "H": hidden_size, "B": batch_size, "V": _VOCABULARY_SIZE, "length": _LENGTH},
        contenders=[
            _contender(OURS, partial(our_writer, model, batch_size)),
            torch_lstm,
            _contender("torch_cell", partial(_torch_writer, partial(plain.step_by_cells, cells), batch_size)),
        ],
        reference=torch_lstm.numbers,
        floor_seconds=_LENGTH
        * max(step_floor(weights, context.limits), 2.0 * batch_size * weights / context.limits.flops),
        derive=lambda seconds: _characters_per_second(seconds, batch_size),
    )


def _characters_per_second(seconds: Mapping[str, float], batch_size: int) -> dict[str, float]:
    return {f"{name}_characters_per_second": batch_size * _LENGTH / value for name, value in seconds.items()}


def _contender(name: str, open_writer: Callable[[float], Writer]) -> Contender:
    """Draws at temperature 1 for the clock, and takes the likeliest symbols for the check."""
    write = open_writer(1.0)
    return Contender(name, lambda: write(_LENGTH), lambda: {"tokens": to_numpy(open_writer(0.0)(_LENGTH))})


def _torch_writer(step: Callable[[Tensor, Any], tuple[Tensor, Any]], batch_size: int, temperature: float) -> Writer:
    tokens, state = torch.zeros(batch_size, dtype=torch.long), None

    def write(length: int) -> Tensor:
        nonlocal tokens, state
        drawn = []
        with torch.inference_mode():
            for _ in range(length):
                logits, state = step(tokens, state)
                if temperature:
                    tokens = torch.multinomial((logits / temperature).softmax(-1), 1).squeeze(-1)
                else:
                    tokens = logits.argmax(-1)
                drawn.append(tokens)
        return torch.stack(drawn)

    return write


def _our_model(plain: TorchWriter) -> LanguageModel:
    hidden_size = plain.lstm.hidden_size
    stack = unspool.stack_cells(unspool.LSTM, _EMBEDDING_SIZE, hidden_size, _NUM_LAYERS)
    model = LanguageModel(_VOCABULARY_SIZE, stack, tied=False).eval()
    model.embedding.load_state_dict(plain.embedding.state_dict())
    model.softmax.load_state_dict(plain.softmax.state_dict())
    for number in range(_NUM_LAYERS):
        stack.layers[number].cell.load_state_dict(layer_weights(plain.lstm, number))  # type: ignore[union-attr, operator]
    return model
