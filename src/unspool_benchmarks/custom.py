"""A user's own cell: ten lines of equations against a Python loop of the same, JAX's scan, and per flop our LSTM."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import unspool
from unspool_benchmarks.case import OURS, Case, Contender, Context, Plan, Size, gather, plan
from unspool_benchmarks.contenders import to_numpy, training_calls
from unspool_benchmarks.equations import EQUATIONS, Ops
from unspool_benchmarks.floors import LayerShape, layer_floor, layer_flops
from unspool_benchmarks.jax_peer import jax_contender

SIZES = tuple(
    Size(*size)
    for size in [
        (128, 1, 64),
        (128, 1, 256),
        (128, 4, 256),
        (64, 8, 128),
        (128, 16, 128),
        (128, 32, 256),
        (64, 32, 512),
    ]
)

_OUR_LSTM = "unspool_lstm"
_TORCH_OPS = Ops(
    sigmoid=torch.sigmoid,
    tanh=torch.tanh,
    linear=nn.functional.linear,
    split=lambda a, parts: a.chunk(parts, -1),
    join=lambda parts: torch.cat(parts, -1),
    normalize=lambda a: nn.functional.layer_norm(a, a.shape[-1:], eps=1e-5),
)


class MinimalGatedUnit(unspool.GatedCell):
    """The cell of the README (Zhou et al. 2016, arXiv 1603.09420): f = sigmoid(x_f + h_f), n = tanh(x_n + f * h_n)."""

    gates = ("f", "n")

    def pointwise(self, x: Sequence[Tensor], h: Sequence[Tensor], state: unspool.HiddenState) -> unspool.HiddenState:
        f = torch.sigmoid(x[0] + h[0])
        n = torch.tanh(x[1] + f * h[1])
        return unspool.HiddenState(h=(1 - f) * state.h + f * n)


CELLS: dict[str, type[unspool.GatedCell]] = {
    "MinimalGatedUnit": MinimalGatedUnit,
    "LayerNormLSTM": unspool.LayerNormLSTM,
}


def custom(context: Context) -> Iterator[Plan]:
    """Training of two cells that torch.nn lacks, against a torch Python loop, JAX, and per flop our LSTM."""
    for cell in CELLS:
        for size in context.sizes or SIZES:
            yield plan(f"{cell} {size}", partial(custom_case, cell, size, context))


def custom_case(cell_name: str, size: Size, context: Context) -> Case:
    """One of the two cells at one size."""
    torch.manual_seed(0)
    T, B, H = size
    cell, x, cotangent = CELLS[cell_name](H, H), torch.randn(T, B, H, requires_grad=True), torch.randn(T, B, H)
    parameters = dict(cell.named_parameters())
    # At a gain of 1 the recurrence is chaotic: rounding alone makes 0.02 of a gradient at 128,32,256.
    with torch.no_grad():
        for gain in (parameter for name, parameter in parameters.items() if name.startswith("gain_h")):
            gain.mul_(0.5)
    loop = _contender("torch_loop", torch_loop(cell_name, parameters), parameters, x, cotangent)
    exact = {name: value.detach().double().requires_grad_() for name, value in parameters.items()}
    exact_x = x.detach().double().requires_grad_()
    reference = _contender("float64", torch_loop(cell_name, exact), exact, exact_x, cotangent.double())
    values = {name: to_numpy(value) for name, value in parameters.items()}
    found, absent = gather(
        context, {"jax": lambda: jax_contender(cell_name, values, to_numpy(x), cotangent.numpy(), context.threads)}
    )
    shape, lstm_shape = (LayerShape(T, B, H, H, gates) for gates in (len(cell.gates), 4))
    flops_ratio = layer_flops(shape, True) / layer_flops(lstm_shape, True)

    def per_flop(seconds: Mapping[str, float]) -> dict[str, float]:
        return {"per_flop_over_our_lstm": seconds[OURS] / seconds[_OUR_LSTM] / flops_ratio}

    return Case(
        settings={"cell": cell_name, "T": T, "B": B, "I": H, "H": H, "dtype": "fp32", "mode": "training"},
        contenders=[
            _layer_contender(OURS, cell, x, cotangent),
            loop,
            *found,
            _lstm_contender(H, x, cotangent, reference),
        ],
        reference=reference.numbers,
        floor_seconds=layer_floor(shape, context.limits, training=True),
        absent=absent,
        derive=per_flop,
    )


def torch_loop(cell_name: str, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """The cell as a loop over time in PyTorch, the way one writes it without us."""
    equations = EQUATIONS[cell_name]

    def forward(x: Tensor) -> Tensor:
        zero = x.new_zeros(x.shape[1], weights["weight_hh"].shape[1])
        state, outputs = (zero,) * equations.num_states, []
        for gates in equations.project(_TORCH_OPS, weights, x).unbind(0):
            state = equations.step(_TORCH_OPS, weights, gates, state)
            outputs.append(state[0])
        return torch.stack(outputs)

    return forward


def _layer_contender(name: str, cell: unspool.Cell, x: Tensor, cotangent: Tensor) -> Contender:
    layer = unspool.Recurrent(cell)
    return _contender(name, lambda x: layer(x).output, dict(cell.named_parameters()), x, cotangent)


def _lstm_contender(hidden_size: int, x: Tensor, cotangent: Tensor, other: Contender) -> Contender:
    """Our LSTM at the same size, the measure of time per flop; its numbers are another section's matter."""
    lstm = _layer_contender(_OUR_LSTM, unspool.LSTM(hidden_size, hidden_size), x, cotangent)
    return Contender(_OUR_LSTM, lstm.run, other.numbers)


def _contender(
    name: str, forward: Callable[[Tensor], Tensor], parameters: Mapping[str, Tensor], x: Tensor, cotangent: Tensor
) -> Contender:
    calls: tuple[Any, Any] = training_calls(forward, parameters, x, cotangent, bf16=False)
    return Contender(name, *calls)
