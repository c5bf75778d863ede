"""Contenders for one recurrent layer: ours, torch.nn's, and the peers built from the same weights."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import unspool
from unspool_benchmarks.case import (
    BF16_TOLERANCE,
    FP32_TOLERANCE,
    OURS,
    Case,
    Contender,
    Context,
    Numbers,
    Size,
    gather,
)
from unspool_benchmarks.floors import LayerShape, layer_floor
from unspool_benchmarks.jax_peer import jax_contender
from unspool_benchmarks.onnx_peer import onnxruntime_contender, openvino_contender

CELLS = {"LSTM": 4, "GRU": 3, "RNN": 1, "ProjectedLSTM": 4}
"""Cells that torch.nn has too, with the number of their gates."""


@dataclass(frozen=True)
class Problem:
    """One layer to run: which cell, how large, in which type, and whether gradients are wanted."""

    cell: str
    size: Size
    training: bool
    bf16: bool = False

    @property
    def projection(self) -> int:
        """Width of the output projection, 0 for none."""
        return self.size.hidden_size // 2 if self.cell == "ProjectedLSTM" else 0

    @property
    def shape(self) -> LayerShape:
        """For the floor."""
        T, B, H = self.size
        return LayerShape(T, B, H, H, CELLS[self.cell], self.projection)

    @property
    def tolerance(self) -> float:
        """How far from PyTorch's fp32 numbers a contender may be."""
        return BF16_TOLERANCE if self.bf16 else FP32_TOLERANCE

    def settings(self) -> dict[str, Any]:
        """For the record."""
        T, B, H = self.size
        mode, dtype = "training" if self.training else "inference", "bf16" if self.bf16 else "fp32"
        return {"cell": self.cell, "T": T, "B": B, "I": H, "H": H, "dtype": dtype, "mode": mode}


class LayerData:
    """PyTorch's layer with its weights, an input and a cotangent, from which all contenders of a problem are built."""

    def __init__(self, problem: Problem):
        torch.manual_seed(0)
        T, B, H = problem.size
        self.problem, self.layer = problem, torch_layer(problem)
        self.x = torch.randn(T, B, H, requires_grad=problem.training)
        self.cotangent = torch.randn(T, B, problem.projection or H)

    def weights(self) -> dict[str, np.ndarray]:
        """PyTorch's parameters without the number of the layer: weight_ih, weight_hh, ..."""
        return {plain_name(name): to_numpy(value) for name, value in self.layer.named_parameters()}


def layer_case(problem: Problem, context: Context, peers: Sequence[str]) -> Case:
    """Ours, torch's layer (beside bf16 also in fp32), and those of the named peers that are there."""
    data = LayerData(problem)
    found, absent = gather(context, {name: partial(PEERS[name], data, context.threads) for name in peers})
    in_fp32 = [torch_contender(data, "torch_fp32", bf16=False)] if problem.bf16 else []
    return Case(
        settings=problem.settings(),
        contenders=[our_contender(data), torch_contender(data), *in_fp32, *found],
        reference=lambda: reference_numbers(data),
        floor_seconds=layer_floor(problem.shape, context.limits, problem.training, problem.bf16),
        absent=absent,
    )


def our_contender(data: LayerData, name: str = OURS, bf16: bool | None = None) -> Contender:
    """Our layer with PyTorch's weights."""
    layer = our_layer(data.problem)
    layer.cell.load_state_dict({plain_name(key): value for key, value in data.layer.state_dict().items()})
    return module_contender(name, layer, dict(layer.cell.named_parameters()), data, bf16)


def torch_contender(data: LayerData, name: str = "torch", bf16: bool | None = None) -> Contender:
    """PyTorch's own layer."""
    parameters = {plain_name(key): value for key, value in data.layer.named_parameters()}
    return module_contender(name, data.layer, parameters, data, bf16)


def reference_numbers(data: LayerData) -> Numbers:
    """What PyTorch computes in fp32."""
    return torch_contender(data, bf16=False).numbers()


def module_contender(
    name: str, module: nn.Module, parameters: Mapping[str, Tensor], data: LayerData, bf16: bool | None = None
) -> Contender:
    """Any module whose result begins with the output [T, B, O]."""
    problem = data.problem
    half = problem.bf16 if bf16 is None else bf16
    forward = lambda x: module(x)[0]  # noqa: E731
    if problem.training:
        run, numbers = training_calls(forward, parameters, data.x, data.cotangent, half)
    else:
        module.eval()
        run, numbers = inference_calls(forward, data.x, half)
    return Contender(name, run, numbers, BF16_TOLERANCE if half else FP32_TOLERANCE)


def training_calls(
    forward: Callable[[Tensor], Tensor], parameters: Mapping[str, Tensor], x: Tensor, cotangent: Tensor, bf16: bool
) -> tuple[Callable[[], Any], Callable[[], Numbers]]:
    """One forward and backward pass with all gradients, and what it computes."""
    wanted = [x, *parameters.values()]
    cotangents = {dtype: cotangent.to(dtype) for dtype in (cotangent.dtype, torch.bfloat16)}

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        with autocast(bf16):
            output = forward(x)
        return output, torch.autograd.grad(output, wanted, cotangents[output.dtype])

    def numbers() -> Numbers:
        output, gradients = run()
        named = zip(("output", "x", *parameters), (output, *gradients), strict=True)
        return {name: to_numpy(value) for name, value in named}

    return run, numbers


def inference_calls(
    forward: Callable[[Tensor], Tensor], x: Tensor, bf16: bool
) -> tuple[Callable[[], Any], Callable[[], Numbers]]:
    """One forward pass without gradients, and what it computes."""

    def run() -> Tensor:
        with torch.inference_mode(), autocast(bf16):
            return forward(x)

    return run, lambda: {"output": to_numpy(run())}


def autocast(bf16: bool) -> AbstractContextManager[Any]:
    """Products in bf16, or nothing special."""
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


def torch_layer(problem: Problem) -> nn.RNNBase:
    """PyTorch's layer for a problem."""
    H = problem.size.hidden_size
    if problem.cell == "ProjectedLSTM":
        return nn.LSTM(H, H, proj_size=problem.projection)
    kinds: dict[str, Callable[[int, int], nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    return kinds[problem.cell](H, H)


def our_layer(problem: Problem) -> unspool.Recurrent:
    """Our layer for a problem."""
    H = problem.size.hidden_size
    if problem.cell == "ProjectedLSTM":
        return unspool.Recurrent(unspool.ProjectedLSTM(H, H, problem.projection))
    kinds: dict[str, type[unspool.GatedCell]] = {"LSTM": unspool.LSTM, "GRU": unspool.GRU, "RNN": unspool.Elman}
    return unspool.Recurrent(kinds[problem.cell](H, H))


def plain_name(name: str) -> str:
    """A parameter's name without the number of its layer."""
    return name.removesuffix("_l0")


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The values in fp32."""
    return tensor.detach().float().numpy().copy()


def _jax(data: LayerData, threads: int) -> Contender:
    cotangent = data.cotangent.numpy() if data.problem.training else None
    return jax_contender(data.problem.cell, data.weights(), to_numpy(data.x), cotangent, threads)


def _onnxruntime(data: LayerData, threads: int) -> Contender:
    return onnxruntime_contender(data.problem.cell, data.weights(), to_numpy(data.x), threads)


def _openvino(data: LayerData, threads: int) -> Contender:
    return openvino_contender(data.problem.cell, data.weights(), to_numpy(data.x), threads, data.problem.bf16)


PEERS = {"jax": _jax, "onnxruntime": _onnxruntime, "openvino": _openvino}
"""How each peer beside torch is built from a layer's data and a number of threads."""
