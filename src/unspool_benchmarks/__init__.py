"""Benchmarks: the engine against its peers, interleaved, checked, beside the machine's own limits."""

from unspool_benchmarks.case import Case, Contender, Size
from unspool_benchmarks.engine import PEERS, SECTIONS, EngineOptions, parse_size, run_engine, section_lines
from unspool_benchmarks.machine import Limits, describe_machine, measure_limits
from unspool_benchmarks.timing import Pace, interleave

__all__ = [
    "PEERS",
    "SECTIONS",
    "Case",
    "Contender",
    "EngineOptions",
    "Limits",
    "Pace",
    "Size",
    "describe_machine",
    "interleave",
    "measure_limits",
    "parse_size",
    "run_engine",
    "section_lines",
]
