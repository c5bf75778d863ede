"""Equations of cells over any array library, for peers that need them spelled out: a Python loop and JAX's scan."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Weights = Mapping[str, Any]
State = tuple[Any, ...]


class Ops(NamedTuple):
    """What the equations need of a library; `linear(x, weight, bias)`, `split(a, parts)` and `join` on the last axis."""

    sigmoid: Callable[[Any], Any]
    tanh: Callable[[Any], Any]
    linear: Callable[[Any, Any, Any], Any]
    split: Callable[[Any, int], Any]
    join: Callable[[Any], Any]
    normalize: Callable[[Any], Any]


class Equations(NamedTuple):
    """A cell as two functions, with the parameters' names of our own cell.

    Attributes:
        num_states: tensors of the state, the hidden state first.
        project: ``project(ops, weights, x)``, all that depends on x alone.
        step: ``step(ops, weights, gates, state)``, one step.
    """

    num_states: int
    project: Callable[[Ops, Weights, Any], Any]
    step: Callable[[Ops, Weights, Any, State], State]


def _project(ops: Ops, w: Weights, x: Any) -> Any:
    return ops.linear(x, w["weight_ih"], w["bias_ih"])


def _lstm(ops: Ops, w: Weights, gates: Any, state: State) -> State:
    h, c = state
    i, f, g, o = ops.split(gates + ops.linear(h, w["weight_hh"], w["bias_hh"]), 4)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def _gru(ops: Ops, w: Weights, gates: Any, state: State) -> State:
    (h,) = state
    x_r, x_z, x_n = ops.split(gates, 3)
    h_r, h_z, h_n = ops.split(ops.linear(h, w["weight_hh"], w["bias_hh"]), 3)
    r, z = ops.sigmoid(x_r + h_r), ops.sigmoid(x_z + h_z)
    n = ops.tanh(x_n + r * h_n)
    return ((1 - z) * n + z * h,)


def _rnn(ops: Ops, w: Weights, gates: Any, state: State) -> State:
    return (ops.tanh(gates + ops.linear(state[0], w["weight_hh"], w["bias_hh"])),)


def _minimal_gated_unit(ops: Ops, w: Weights, gates: Any, state: State) -> State:
    (h,) = state
    x_f, x_n = ops.split(gates, 2)
    h_f, h_n = ops.split(ops.linear(h, w["weight_hh"], w["bias_hh"]), 2)
    f = ops.sigmoid(x_f + h_f)
    n = ops.tanh(x_n + f * h_n)
    return ((1 - f) * h + f * n,)


def _normalized_project(ops: Ops, w: Weights, x: Any) -> Any:
    parts = ops.split(ops.linear(x, w["weight_ih"], None), 4)
    return ops.join([ops.normalize(part) for part in parts]) * w["gain_ih"] + w["bias_ih"]


def _layer_norm_lstm(ops: Ops, w: Weights, gates: Any, state: State) -> State:
    h, c = state
    products = ops.split(ops.linear(h, w["weight_hh"], None), 4)
    gains = (w["gain_hi"], w["gain_hf"], w["gain_hg"], w["gain_ho"])
    i, f, g, o = (x + gain * ops.normalize(p) for x, p, gain in zip(ops.split(gates, 4), products, gains, strict=True))
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(w["gain_c"] * ops.normalize(c) + w["bias_c"]), c


EQUATIONS = {
    "LSTM": Equations(2, _project, _lstm),
    "GRU": Equations(1, _project, _gru),
    "RNN": Equations(1, _project, _rnn),
    "MinimalGatedUnit": Equations(1, _project, _minimal_gated_unit),
    "LayerNormLSTM": Equations(2, _normalized_project, _layer_norm_lstm),
}
