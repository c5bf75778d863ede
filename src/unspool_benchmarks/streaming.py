"""One step of a live stream: batch 1, two LSTM layers, the state kept from call to call."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import unspool
from unspool_benchmarks.case import OURS, Case, Contender, Context, Numbers, Plan, gather, plan
from unspool_benchmarks.contenders import to_numpy
from unspool_benchmarks.floors import step_floor
from unspool_benchmarks.onnx_peer import onnxruntime_stream

HIDDEN_SIZES = (64, 256, 512)
_NUM_LAYERS = 2
_CHECKED_STEPS = 5

Stream = Callable[[], Any]
"""Reads the case's input once more; returns the output [1, H]."""


def streaming(context: Context) -> Iterator[Plan]:
    """One step at batch 1 through two layers, against nn.LSTM, nn.LSTMCell and ONNX Runtime."""
    for size in dict.fromkeys(size.hidden_size for size in context.sizes) or HIDDEN_SIZES:
        yield plan(f"LSTM {_NUM_LAYERS}x{size}", partial(streaming_case, size, context))


def our_streamer(stack: unspool.Stack, x: Tensor) -> Stream:
    """An open stream whose input lies where it reads it, as ONNX Runtime's does."""
    stream = unspool.Stream(stack, len(x))
    stream.input.copy_(x)
    return stream.step


def streaming_case(hidden_size: int, context: Context) -> Case:
    """Two layers of one size."""
    torch.manual_seed(0)
    lstm, x = nn.LSTM(hidden_size, hidden_size, _NUM_LAYERS).eval(), torch.randn(1, hidden_size)
    stack = unspool.stack_cells(unspool.LSTM, hidden_size, hidden_size, _NUM_LAYERS).eval()
    cells = [nn.LSTMCell(hidden_size, hidden_size) for _ in range(_NUM_LAYERS)]
    for number in range(_NUM_LAYERS):
        weights = layer_weights(lstm, number)
        stack.layers[number].cell.load_state_dict(weights)  # type: ignore[union-attr]
        cells[number].load_state_dict(weights)
    arrays = [{k: to_numpy(v) for k, v in layer_weights(lstm, n).items()} for n in range(_NUM_LAYERS)]
    found, absent = gather(
        context,
        {
            "onnxruntime": lambda: _contender(
                "onnxruntime", partial(onnxruntime_stream, arrays, to_numpy(x)[None], context.threads)
            )
        },
    )
    torch_lstm = _contender("torch", partial(_lstm_stream, lstm, x))
    return Case(
        settings={"cell": "LSTM", "layers": _NUM_LAYERS, "T": 1, "B": 1, "I": hidden_size, "H": hidden_size},
        contenders=[
            _contender(OURS, partial(our_streamer, stack, x)),
            torch_lstm,
            _contender("torch_cell", partial(_cell_stream, cells, x)),
            *found,
        ],
        reference=torch_lstm.numbers,
        floor_seconds=step_floor(_NUM_LAYERS * 8 * hidden_size**2, context.limits),
        absent=absent,
        derive=lambda seconds: {f"{name}_microseconds": 1e6 * value for name, value in seconds.items()},
    )


def layer_weights(lstm: nn.LSTM, number: int, suffix: str = "") -> dict[str, Tensor]:
    """The parameters of one layer, by plain names; `suffix` is ``_reverse`` for the backward direction."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {name: getattr(lstm, f"{name}_l{number}{suffix}").detach() for name in names}


def _contender(name: str, open_stream: Callable[[], Stream]) -> Contender:
    def numbers() -> Numbers:
        step = open_stream()
        return {f"step{t}": to_numpy(torch.as_tensor(step())) for t in range(_CHECKED_STEPS)}

    return Contender(name, open_stream(), numbers)


def _lstm_stream(lstm: nn.LSTM, x: Tensor) -> Stream:
    sequence, state = x[None], None

    def step() -> Tensor:
        nonlocal state
        with torch.inference_mode():
            output, state = lstm(sequence, state)
        return output[0]

    return step


def _cell_stream(cells: list[nn.LSTMCell], x: Tensor) -> Stream:
    states: list[Any] = [None] * len(cells)

    def step() -> Tensor:
        y = x
        with torch.inference_mode():
            for number, cell in enumerate(cells):
                states[number] = cell(y, states[number])
                y = states[number][0]
        return y

    return step
