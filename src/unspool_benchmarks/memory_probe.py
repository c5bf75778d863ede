"""A process of its own that runs one training pass and prints as JSON what memory and time it took.

python -m unspool_benchmarks.memory_probe --subject unspool --steps 10000 --batch-size 4 --hidden-size 256
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import unspool

SUBJECTS = ("unspool", "unspool_checkpointed", "torch")
_WARM_UP_STEPS = 8


def main() -> None:
    """Runs one pass; sizes in bytes, above what the process held with its input before the forward pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subject", choices=SUBJECTS, required=True)
    for name in ("steps", "batch-size", "hidden-size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    layer = build(options.subject, options.hidden_size)
    x = torch.randn(options.steps, options.batch_size, options.hidden_size, requires_grad=True)
    small = x.detach()[:_WARM_UP_STEPS].clone().requires_grad_()
    output = layer(small)[0]
    output.backward(torch.ones_like(output))
    layer.zero_grad()
    print(json.dumps(measure(layer, x)))


def build(subject: str, hidden_size: int) -> nn.Module:
    """The LSTM of a subject."""
    if subject == "torch":
        return nn.LSTM(hidden_size, hidden_size)
    bptt = unspool.CheckpointedBPTT() if subject == "unspool_checkpointed" else unspool.FullBPTT()
    return unspool.Recurrent(unspool.LSTM(hidden_size, hidden_size), bptt)


def measure(layer: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Memory after the forward pass and at the peak of the whole, and the seconds of both."""
    base = resident_bytes()
    reset_peak()
    begin = time.perf_counter()
    output = layer(x)[0]
    between = time.perf_counter()
    after_forward = resident_bytes()
    output.backward(torch.ones_like(output))
    end = time.perf_counter()
    peak = peak_bytes()
    return {
        "base_bytes": base,
        "after_forward_bytes": after_forward - base,
        "peak_bytes": peak - base,
        "total_peak_bytes": peak,
        "forward_seconds": between - begin,
        "backward_seconds": end - between,
        "finite": bool(x.grad is not None and x.grad.isfinite().all()),
    }


def resident_bytes() -> int:
    """What the process holds now."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most that it has held since `reset_peak`, or since its start where the system cannot reset."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def reset_peak() -> None:
    """Lets the peak begin anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _status(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


if __name__ == "__main__":
    main()
