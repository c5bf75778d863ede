"""Sections that run one layer over a whole sequence: training and inference, in fp32 and in bf16."""

from collections.abc import Iterator, Sequence
from functools import partial

from unspool_benchmarks.case import OURS, Case, Context, Plan, Size, gather, plan
from unspool_benchmarks.contenders import (
    CELLS,
    PEERS,
    LayerData,
    Problem,
    layer_case,
    our_contender,
    reference_numbers,
    torch_contender,
)
from unspool_benchmarks.floors import layer_floor

SIZES = tuple(
    Size(*size)
    for size in [
        (128, 1, 64),
        (128, 1, 128),
        (128, 1, 256),
        (128, 1, 512),
        (128, 1, 1024),
        (128, 4, 64),
        (128, 4, 256),
        (64, 8, 128),
        (128, 8, 256),
        (128, 8, 512),
        (128, 16, 128),
        (128, 32, 64),
        (128, 32, 256),
        (64, 32, 512),
        (32, 64, 1024),
        (512, 8, 128),
        (1000, 16, 320),
    ]
)
"""The sizes of the engine's promise: steps, rows, units."""

_BF16_ROWS = 16  # from here on bf16 must pay in inference


def training(context: Context) -> Iterator[Plan]:
    """Forward and backward in fp32 with all gradients, against torch.nn and JAX."""
    return _layers(context, list(CELLS), training=True, bf16=False, peers=["jax"])


def training_bf16(context: Context) -> Iterator[Plan]:
    """Forward and backward under bf16 autocast, ours and torch.nn's."""
    return _layers(context, list(CELLS), training=True, bf16=True, peers=[])


def inference(context: Context) -> Iterator[Plan]:
    """Whole sequences in fp32 without gradients, against torch.nn, ONNX Runtime and OpenVINO."""
    return _layers(context, ["LSTM", "GRU", "RNN"], training=False, bf16=False, peers=["onnxruntime", "openvino"])


def inference_bf16(context: Context) -> Iterator[Plan]:
    """Whole sequences with bf16 products, against our own fp32, torch under autocast and OpenVINO's bf16."""
    for cell in ("LSTM", "GRU", "RNN"):
        for size in context.sizes or [size for size in SIZES if size.batch_size >= _BF16_ROWS]:
            problem = Problem(cell, size, training=False, bf16=True)
            yield plan(f"{cell} {size}", partial(_bf16_inference_case, problem, context))


def _layers(context: Context, cells: Sequence[str], training: bool, bf16: bool, peers: Sequence[str]) -> Iterator[Plan]:
    for cell in cells:
        for size in context.sizes or SIZES:
            problem = Problem(cell, size, training, bf16)
            yield plan(f"{cell} {size}", partial(layer_case, problem, context, peers))


def _bf16_inference_case(problem: Problem, context: Context) -> Case:
    data = LayerData(problem)
    found, absent = gather(context, {"openvino": partial(PEERS["openvino"], data, context.threads)})
    ours = [our_contender(data, OURS), our_contender(data, "unspool_fp32", bf16=False)]
    return Case(
        settings=problem.settings(),
        contenders=[*ours, torch_contender(data), torch_contender(data, "torch_fp32", bf16=False), *found],
        reference=lambda: reference_numbers(data),
        floor_seconds=layer_floor(problem.shape, context.limits, False, bf16=True),
        absent=absent,
    )
