"""What the machine is, and how fast it can be at most: measured in the same run as what is held against it."""

import datetime
import importlib
import importlib.metadata
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unspool.benchmarks.timing import Pace, interleave

_READ_SIZES = tuple(kib * 1024 for kib in (16, 256, 768, 2048, 8192, 16384, 131072))
_FLAGS = ("avx2", "fma", "avx512f", "avx512vl", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd", "bf16")
_PACKAGES = ("unspool", "torch", "numpy", "jax", "jaxlib", "onnx", "onnxruntime", "openvino")
_PRODUCT = 768  # rows and columns of the product that stands in for a peak


@dataclass(frozen=True)
class Limits:
    """Upper bounds of speed with all of `threads` cores busy.

    Attributes:
        threads: cores at work.
        flops: fp32 operations a second, all cores together.
        bf16_flops: the same with products in bf16; that of fp32 where the machine has no bf16 product.
        reads: (bytes that each core goes through again and again, bytes a second and core), rising.
        source: which primitives measured them.
    """

    threads: int
    flops: float
    bf16_flops: float
    reads: tuple[tuple[int, float], ...]
    source: str

    def read_rate(self, size: float) -> float:
        """Bytes a second and core when each core reads `size` bytes again and again, between the measured sizes."""
        below = [point for point in self.reads if point[0] <= size]
        above = [point for point in self.reads if point[0] > size]
        if not below or not above:
            return (below or above)[-1 if below else 0][1]
        (left, slow), (right, fast) = below[-1], above[0]
        share = math.log(size / left) / math.log(right / left)
        return slow + share * (fast - slow)

    def peak(self, bf16: bool) -> float:
        """Operations a second in one of the two types."""
        return self.bf16_flops if bf16 else self.flops


def measure_limits(threads: int, seconds: float = 0.1) -> Limits:
    """Measures the peaks of the machine.

    The native module's ``measure_fma(seconds, threads)`` gives operations a second of all threads together, and its
    ``measure_read(bytes, seconds, threads)`` bytes a second of all together, each thread reading `bytes` of its own.
    Without it torch.mm and a sum stand in, which are lower bounds of the peaks.

    Args:
        threads: cores at work.
        seconds: for each of the measurements.
    """
    native = native_module()
    fma, read = getattr(native, "measure_fma", None), getattr(native, "measure_read", None)
    flops = fma(seconds, threads) if fma else _product_rate(seconds)
    reads = [
        (size, (read(size, seconds, threads) if read else _sum_rate(size, seconds, threads))) for size in _READ_SIZES
    ]
    source = f"{'native measure_fma' if fma else f'torch.mm {_PRODUCT}^3, a lower bound'}; " + (
        "native measure_read" if read else "torch sum, a lower bound"
    )
    has_bf16 = bool({"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_flags()))
    per_core = tuple((size, rate / threads) for size, rate in reads)
    return Limits(threads, flops, flops * (2 if has_bf16 else 1), per_core, source)


def native_module() -> Any | None:
    """The compiled extension, or None where it is not built."""
    try:
        return importlib.import_module("unspool.kernels._native")
    except ImportError:
        return None


def describe_machine() -> dict[str, Any]:
    """Processor, versions, commit, date and load: what a measured number means nothing without."""
    return {
        "cpu": _cpu_name(),
        "flags": cpu_flags(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "native_target": _native_target(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_average": list(os.getloadavg()),
    }


def cpu_flags() -> list[str]:
    """Those of the processor's extensions that matter here."""
    found = set(_cpu_info("flags").split()) | set(_cpu_info("Features").split())
    return [flag for flag in _FLAGS if flag in found]


def _product_rate(seconds: float) -> float:
    a = torch.randn(_PRODUCT, _PRODUCT)
    return 2 * _PRODUCT**3 / _best(lambda: torch.mm(a, a), seconds)


def _sum_rate(size: int, seconds: float, threads: int) -> float:
    values = torch.ones(threads * size // 4)
    return values.nbytes / _best(values.sum, seconds)


def _best(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the quickest of some samples."""
    begin, best = time.perf_counter(), math.inf
    while time.perf_counter() - begin < seconds or best == math.inf:
        pace = Pace(rounds=1, sample_seconds=seconds / 20, settle_seconds=0.0)
        best = min(best, *interleave({"it": call}, pace)["it"])
    return best


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _native_target() -> str | None:
    """The instruction set that the native engine runs with; None where it is not built."""
    native = native_module()
    return None if native is None else str(native.target())


def _commit() -> str | None:
    """The commit of the source tree, with a + where tracked files differ from it; None outside of one."""
    where = Path(__file__).parent
    try:
        commit = _git(where, "rev-parse", "HEAD")
        return commit + ("+" if _git(where, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(where: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, check=True)
    return done.stdout.strip()
