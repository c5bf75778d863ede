"""JAX as a peer: `lax.scan` under `jit`, the input product hoisted out of the loop, gradients by `jax.vjp`."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unspool_benchmarks.case import AbsentError, Contender, import_peer
from unspool_benchmarks.equations import EQUATIONS, Ops


def jax_contender(
    cell: str, weights: Mapping[str, np.ndarray], x: np.ndarray, cotangent: np.ndarray | None, threads: int
) -> Contender:
    """A scan over a cell's equations.

    Args:
        cell: a name of `EQUATIONS`.
        weights: the cell's parameters, by the names of our own cell.
        x: [T, B, I].
        cotangent: [T, B, H] for training; None for inference.
        threads: cores it may use.

    Raises:
        AbsentError: JAX is not installed, has no equations, or cannot be kept to so few cores.
    """
    if cell not in EQUATIONS:
        raise AbsentError(f"no equations of {cell} for lax.scan")
    jax = import_peer("jax")
    forward = _forward(jax, cell)

    def train(weights: Any, x: Any, cotangent: Any) -> Any:
        output, pull = jax.vjp(forward, weights, x)
        return output, *pull(cotangent)

    values = [{name: jax.numpy.asarray(value) for name, value in weights.items()}, jax.numpy.asarray(x)]
    if cotangent is not None:
        values.append(jax.numpy.asarray(cotangent))
    compiled = jax.jit(forward if cotangent is None else train)
    run = _confined(lambda: jax.block_until_ready(compiled(*values)), threads)

    def numbers() -> dict[str, np.ndarray]:
        if cotangent is None:
            return {"output": np.asarray(run())}
        output, gradients, dx = run()
        return {"output": np.asarray(output), "x": np.asarray(dx), **{k: np.asarray(v) for k, v in gradients.items()}}

    return Contender("jax", run, numbers)


def _forward(jax: Any, cell: str) -> Callable[[Any, Any], Any]:
    equations, ops = EQUATIONS[cell], _ops(jax)

    def forward(weights: Any, x: Any) -> Any:
        def step(state: Any, gates: Any) -> Any:
            state = equations.step(ops, weights, gates, state)
            return state, state[0]

        zero = jax.numpy.zeros((x.shape[1], weights["weight_hh"].shape[1]), x.dtype)
        return jax.lax.scan(step, (zero,) * equations.num_states, equations.project(ops, weights, x))[1]

    return forward


def _ops(jax: Any) -> Ops:
    np_ = jax.numpy

    def linear(x: Any, weight: Any, bias: Any) -> Any:
        return x @ weight.T if bias is None else x @ weight.T + bias

    def normalize(a: Any) -> Any:
        centred = a - a.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)

    return Ops(
        sigmoid=jax.nn.sigmoid,
        tanh=np_.tanh,
        linear=linear,
        split=lambda a, parts: np_.split(a, parts, -1),
        join=lambda parts: np_.concatenate(parts, -1),
        normalize=normalize,
    )


def _confined(call: Callable[[], Any], threads: int) -> Callable[[], Any]:
    """The call on the first `threads` cores only: XLA's pool has the size of the machine and cannot be made smaller."""
    if sys.platform != "linux":
        raise AbsentError("XLA's threads can be kept to some cores on Linux only")
    cores = sorted(os.sched_getaffinity(0))
    if threads >= len(cores):
        _move_pool(cores)
        return call
    some, free = cores[:threads], cores

    def confined() -> Any:
        os.sched_setaffinity(0, some)
        try:
            return call()
        finally:
            os.sched_setaffinity(0, free)

    confined()  # so that the pool exists
    _move_pool(some)
    return confined


def _move_pool(cores: list[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        if "XLA" in (task / "comm").read_text(encoding="utf-8"):
            os.sched_setaffinity(int(task.name), cores)
