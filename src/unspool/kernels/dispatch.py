"""Which way a scan goes: who has to see an operator, and a word about a way that is slow without need."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from unspool.kernels import isa

Function = TypeVar("Function", bound=Callable[..., Any])
_NOT_REAL = ("lengths", "reset", "targets")  # tensors of integers and booleans
NARROW_REMEDY = "keep the parameters in float32, and use torch.autocast for products in bfloat16"


def is_eager(tensors: Iterable[Tensor | None]) -> bool:
    """Whether the call comes from plain code on plain tensors: no compiler or mode has to see an operator."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    return all(t is None or type(t) in (Tensor, torch.nn.Parameter) for t in tensors)


def constant_to_compilers(function: Function) -> Function:
    """Marks a function into which torch.compile does not look: it takes the result as it is while compiling.

    What `torch.compiler.assume_constant_result` does, without importing the compiler, which takes two seconds.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_transformed() -> bool:
    """Whether a transform of torch.func, forward-mode differentiation or torch.jit.trace is at work.

    To them an operator of a library is opaque, plain tensor code is not.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0 or is_traced()


def is_traced() -> bool:
    """Whether torch.jit.trace is at work, to which what runs by address would be a constant."""
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None


def refusal(names: Sequence[str], tensors: Sequence[Tensor | None]) -> str | None:
    """Why the native engine cannot run on these tensors, or None where it can."""
    if isa._native is None:
        return isa.absence()
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is None:
            continue
        if not tensor.is_cpu:
            return f"{name} is on {tensor.device}; the native engine runs on a CPU"
        if tensor.dtype != torch.float32 and name not in _NOT_REAL:
            return f"{name} is {tensor.dtype}; the native engine computes in float32"
    return None


def dense(tensor: Tensor | None) -> Tensor | None:
    """The same numbers as they are read by address: in row-major order, without gaps, with their own signs."""
    if tensor is None or (tensor.is_contiguous() and not tensor.is_neg()):
        return tensor
    return tensor.resolve_neg().contiguous()


def warn_slow(tensors: Iterable[Tensor | None], reason: str, remedy: str = NARROW_REMEDY) -> None:
    """Says, once a reason, that a scan takes the reference path, and what would be faster.

    Silent in float64 and on other devices than a CPU: nothing would be faster there.

    Args:
        tensors: what the scan reads.
        reason: why the native engine does not run it.
        remedy: what to do, where an engine is built.
    """
    if torch.compiler.is_compiling():
        return
    if any(t is not None and (t.device.type != "cpu" or t.dtype == torch.float64) for t in tensors):
        return
    if isa._native is None:
        isa.warn_absent()
    else:
        warn_once(
            f"unspool's native engine does not run this scan, and the reference path is slow: {reason}; {remedy}."
        )


@lru_cache(maxsize=64)
def warn_once(message: str, stacklevel: int = 4) -> None:
    """Warns, but not twice of the same."""
    warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)
