"""When PyTorch's own kernel runs instead of a scan, and saying so."""

import torch
from torch import nn

from unspool.kernels import isa
from unspool.kernels.dispatch import is_eager, is_traced, is_transformed, warn_once
from unspool.kernels.explanation import Explanation, note
from unspool.types import Tensor


def reason_for_torch(data: Tensor) -> str | None:
    """Why PyTorch's kernel is the faster one for this input, or None where a scan is.

    Under a compiler or a transform a scan runs wherever the data lie on a CPU: there it can more than PyTorch's kernel.
    """
    if not data.is_cpu:
        return f"the input is on {data.device}, where there is no engine"
    if is_traced():
        return "torch.jit.trace sees no operator of another's"
    if is_transformed() or not is_eager((data,)):
        return None
    if isa._native is None:
        return isa.absence()
    if data.dtype not in (torch.float32, torch.bfloat16):
        return f"the input is {data.dtype}; the native engine computes in float32"
    return None


def say_handover(module: nn.Module, sizes: tuple[int, int], data: Tensor, reason: str) -> None:
    """Tells `unspool.explain`, and on another device than a CPU warns once; sizes are T and B."""
    if torch.compiler.is_compiling():
        return
    note(lambda: Explanation("gated", "torch", (*sizes, int(module.hidden_size)), reason))  # type: ignore[arg-type]
    if not data.is_cpu:
        message = f"unspool.nn.{type(module).__name__}: PyTorch's own kernel runs, because {reason}."
        warn_once(message, stacklevel=6)  # where the module was called
