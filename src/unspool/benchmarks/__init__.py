"""Benchmarks: the engine against its peers, interleaved, checked, beside the machine's own limits."""

from unspool.benchmarks.case import Case, Contender, Size
from unspool.benchmarks.engine import PEERS, SECTIONS, EngineOptions, parse_size, run_engine, section_lines
from unspool.benchmarks.machine import Limits, describe_machine, measure_limits
from unspool.benchmarks.timing import Pace, interleave

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
