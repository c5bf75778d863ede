"""What the machine is, and how fast it can be at most: measured in the same run as what is held against it."""

import datetime
import importlib
import importlib.metadata
import math
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unspool.errors import UnspoolError

_READ_SIZES = tuple(kib * 1024 for kib in (16, 256, 768, 2048, 8192, 16384, 131072))
_FLAGS = ("avx2", "fma", "avx512f", "avx512vl", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd", "bf16")
_PACKAGES = ("unspool", "torch", "numpy", "jax", "jaxlib", "onnx", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Limits:
    """Upper bounds of speed with all of `threads` cores busy.

    Attributes:
        threads: cores at work.
        flops: fp32 operations a second, all cores together.
        bf16_flops: the same with products in bf16; that of fp32 where the machine has no bf16 product.
        reads: (bytes that each core goes through again and again, bytes a second and core), rising.
    """

    threads: int
    flops: float
    bf16_flops: float
    reads: tuple[tuple[int, float], ...]

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
    """Measures the peaks of the machine with the native engine's own loops of multiply-adds and of loads.

    Args:
        threads: cores at work.
        seconds: for each of the measurements.

    Raises:
        UnspoolError: there is no native engine.
    """
    native = native_module()
    if native is None:
        raise UnspoolError(
            "bench engine: the native engine is not built, so there is nothing to measure; see README.md."
        )
    flops = native.measure_multiplications(seconds, threads)
    reads = tuple((size, native.measure_reads(size, seconds, threads) / threads) for size in _READ_SIZES)
    has_bf16 = bool({"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_flags()))
    return Limits(threads, flops, flops * (2 if has_bf16 else 1), reads)


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
