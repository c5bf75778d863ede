"""Memory of an LSTM's training pass, each in a process of its own; and exact gradients over a million steps."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

import unspool
from unspool.errors import UnspoolError
from unspool_benchmarks.case import FP32_TOLERANCE, OURS, Context, Plan, Record, Size, relative_error
from unspool_benchmarks.contenders import to_numpy
from unspool_benchmarks.timing import Pace

_SIZE = Size(10_000, 4, 256)
_LONG_SIZE = Size(1_000_000, 1, 64)
_FULL_STEPS = 20_000  # of the full pass that the checkpointed one's time per step is held against
_CHECKED_STEPS = 500


def memory(context: Context) -> Iterator[Plan]:
    """Bytes a unit, row and step after forward and at the peak; checkpointed BPTT over a million steps."""
    for size in context.sizes or [_SIZE]:
        yield Plan(f"LSTM {size}", partial(_full, size, context))
    for size in context.sizes or [_LONG_SIZE]:
        yield Plan(f"LSTM {size} checkpointed", partial(_checkpointed, size, context))


def _full(size: Size, context: Context, pace: Pace) -> Record:
    """Memory does not vary from run to run: one pass each."""
    units = size.num_steps * size.batch_size * size.hidden_size
    probes = {name: probe(name, size, context.threads) for name in (OURS, "torch")}
    derived = {}
    for name, found in probes.items():
        derived[f"{name}_bytes_after_forward"] = found["after_forward_bytes"] / units
        derived[f"{name}_bytes_at_peak"] = found["peak_bytes"] / units
    return _record(size, probes, derived, _all_finite(probes))


def _checkpointed(size: Size, context: Context, pace: Pace) -> Record:
    """As many passes as rounds were asked for; by default one of the long and three of the short ones."""
    full_size = size._replace(num_steps=min(size.num_steps, _FULL_STEPS))
    long = [probe("unspool_checkpointed", size, context.threads) for _ in range(pace.rounds or 1)]
    full = [probe(OURS, full_size, context.threads) for _ in range(pace.rounds or 3)]
    per_step = [
        sorted(_seconds(found) / steps for found in probes)[len(probes) // 2]
        for probes, steps in ((long, size.num_steps), (full, full_size.num_steps))
    ]
    derived = {
        "peak_mib": max(found["peak_bytes"] for found in long) / 2**20,
        "total_peak_mib": max(found["total_peak_bytes"] for found in long) / 2**20,
        "checkpointed_microseconds_per_step": 1e6 * per_step[0],
        "full_microseconds_per_step": 1e6 * per_step[1],
        "time_over_full": per_step[0] / per_step[1],
        "full_steps": float(full_size.num_steps),
    }
    probes = {"unspool_checkpointed": long[0], OURS: full[0]}
    return _record(size, probes, derived, {**_all_finite(probes), "gradients": _exactness(size)})


def probe(subject: str, size: Size, threads: int) -> dict[str, Any]:
    """What one pass takes, in a fresh process.

    Raises:
        UnspoolError: the process failed, for instance for lack of memory.
    """
    words = [sys.executable, "-m", "unspool_benchmarks.memory_probe", "--subject", subject, "--threads", str(threads)]
    for flag, value in zip(("--steps", "--batch-size", "--hidden-size"), size, strict=True):
        words += [flag, str(value)]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnspoolError(f"memory of {subject} at {size}: the process ended with {done.returncode}: {last}")
    return dict(json.loads(done.stdout))


def _exactness(size: Size) -> Record:
    """Checkpointed gradients against full ones, over few steps."""
    torch.manual_seed(0)
    cell = unspool.LSTM(size.hidden_size, size.hidden_size)
    x = torch.randn(min(size.num_steps, _CHECKED_STEPS), size.batch_size, size.hidden_size, requires_grad=True)
    found = []
    for bptt in (unspool.CheckpointedBPTT(), unspool.FullBPTT()):
        output = unspool.Recurrent(cell, bptt)(x).output
        found.append(torch.autograd.grad(output, [x, *cell.parameters()], torch.ones_like(output)))
    error = max(relative_error(to_numpy(a), to_numpy(b)) for a, b in zip(*found, strict=True))
    return {"worst": "any", "error": error, "tolerance": FP32_TOLERANCE, "passed": error <= FP32_TOLERANCE}


def _all_finite(probes: dict[str, dict[str, Any]]) -> Record:
    return {
        name: {"worst": "x", "error": 0.0, "tolerance": 0.0, "passed": found["finite"]}
        for name, found in probes.items()
    }


def _record(size: Size, probes: dict[str, dict[str, Any]], derived: dict[str, float], checks: Record) -> Record:
    T, B, H = size
    return {
        "settings": {"cell": "LSTM", "T": T, "B": B, "H": H, "dtype": "fp32"},
        "checks": checks,
        "passed": all(check["passed"] for check in checks.values()),
        "absent": {},
        "probes": probes,
        "derived": derived,
    }


def _seconds(found: dict[str, Any]) -> float:
    return float(found["forward_seconds"] + found["backward_seconds"])
