"""The engine's suite: every promise about speed and memory, held against its peers and the machine's own limits."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from unspool.errors import ConfigError, UnspoolError, did_you_mean
from unspool_benchmarks.case import AbsentError, Context, Plan, Record, Size
from unspool_benchmarks.custom import custom
from unspool_benchmarks.generation import generation
from unspool_benchmarks.language_model import language_model
from unspool_benchmarks.layer_sections import inference, inference_bf16, training, training_bf16
from unspool_benchmarks.machine import Limits, describe_machine, measure_limits
from unspool_benchmarks.memory import memory
from unspool_benchmarks.ragged import ragged
from unspool_benchmarks.report import HEADER, lines, summarize, summary_lines
from unspool_benchmarks.streaming import streaming
from unspool_benchmarks.tagger import tagger
from unspool_benchmarks.timing import Pace

SECTIONS: dict[str, Callable[[Context], Iterable[Plan]]] = {
    section.__name__: section
    for section in (
        training,
        training_bf16,
        inference,
        inference_bf16,
        streaming,
        ragged,
        custom,
        language_model,
        tagger,
        generation,
        memory,
    )
}
PEERS = ("torch", "jax", "onnxruntime", "openvino")
"""Peers that can be chosen; torch is always there."""


@dataclass(frozen=True)
class EngineOptions:
    """What to run.

    Attributes:
        only: sections, or ``section:text`` for those of its cases whose name contains the text; empty for all.
        sizes: instead of each section's own; sections that know no T or B take what they know.
        threads: counts to run everything with, one after the other.
        rounds: samples of each contender; None for as many as fit into `seconds`.
        seconds: budget of one case, where `rounds` is None.
        peers: beside torch.
        json: print the document instead of the table.
        out: file for the document, rewritten after every case.
    """

    only: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = ()
    threads: tuple[int, ...] = (2, 1)
    rounds: int | None = None
    seconds: float = 3.0
    peers: tuple[str, ...] = PEERS
    json: bool = False
    out: Path | None = None


def parse_size(text: str) -> Size:
    """``T,B,H`` as a size.

    Raises:
        ConfigError: these are not three numbers of at least 1.
    """
    numbers = [int(word) if word.isdecimal() else 0 for word in text.split(",")]
    if len(numbers) != 3 or min(numbers) < 1:
        raise ConfigError(f"--sizes: expected T,B,H, three numbers of at least 1, got {text!r}.")
    return Size(*numbers)


def section_lines() -> list[str]:
    """Each section with what it measures."""
    return [f"{name:16s} {(section.__doc__ or '').strip()}" for name, section in SECTIONS.items()]


def run_engine(options: EngineOptions) -> Record:
    """Runs the suite, prints the table or the document, and returns the document.

    Raises:
        ConfigError: a section or a peer is unknown.
        UnspoolError: some numbers were wrong or a case failed; what there is has been printed.
    """
    _check_options(options)
    pace = Pace(rounds=options.rounds, seconds=options.seconds)
    document: Record = {"machine": describe_machine(), "options": _options_record(options), "limits": {}, "cases": []}
    if not options.json:
        print(HEADER, flush=True)
    before = torch.get_num_threads()
    try:
        for threads in options.threads:
            torch.set_num_threads(threads)
            _say(f"measuring the machine's limits, {threads} threads")
            limits = measure_limits(threads)
            document["limits"][str(threads)] = asdict(limits)
            _run_sections(options, pace, threads, limits, document)
    finally:
        torch.set_num_threads(before)
    _finish(options, document)
    return document


def _run_sections(options: EngineOptions, pace: Pace, threads: int, limits: Limits, document: Record) -> None:
    context = Context(threads, limits, frozenset(options.peers), options.sizes)
    plans = [(name, plan) for name in SECTIONS for plan in _chosen(name, context, options.only)]
    if not plans:
        raise ConfigError("bench engine: no case has such a name; see --list for the sections.")
    for number, (section, plan) in enumerate(plans, 1):
        _say(f"[{number}/{len(plans)}] {section}: {plan.name}, {threads} threads")
        record = {"section": section, "name": plan.name, "threads": threads, **_run_plan(plan, pace)}
        document["cases"].append(record)
        if not options.json:
            print(*lines(record), sep="\n", flush=True)
        if options.out:
            _write(options.out, {**document, "summary": summarize(document["cases"])})


def _chosen(section: str, context: Context, only: Sequence[str]) -> list[Plan]:
    wanted = [text for name, _, text in (word.partition(":") for word in only) if name == section]
    if only and not wanted:
        return []
    return [plan for plan in SECTIONS[section](context) if not wanted or any(text in plan.name for text in wanted)]


def _run_plan(plan: Plan, pace: Pace) -> Record:
    """The record of one case; an error becomes part of it, so that hours of other cases are not lost."""
    begin = time.perf_counter()
    try:
        record = plan.run(pace)
    except AbsentError as reason:
        return {"skipped": str(reason)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "passed": False}
    return {**record, "total_seconds": round(time.perf_counter() - begin, 2)}


def _finish(options: EngineOptions, document: Record) -> None:
    document["summary"] = summarize(document["cases"])
    document["load_average_at_end"] = list(os.getloadavg())
    if options.json:
        print(json.dumps(document, allow_nan=False))
    else:
        print("", *summary_lines(document["summary"]), sep="\n", flush=True)
    if options.out:
        _write(options.out, document)
    bad = [f"{case['section']}: {case['name']}" for case in document["cases"] if not case.get("passed", True)]
    if bad:
        raise UnspoolError(f"{len(bad)} of {len(document['cases'])} cases failed: {'; '.join(bad[:5])}")


def _check_options(options: EngineOptions) -> None:
    rounds = 1 if options.rounds is None else options.rounds
    if not (0 < min(options.threads) <= max(options.threads) <= 4096 and rounds > 0 and 0 < options.seconds < 1e6):
        raise ConfigError(
            "bench engine: --threads, --rounds and --seconds-per-case must be above 0, and of a sane size."
        )
    for word in options.only:
        name = word.partition(":")[0]
        if name not in SECTIONS:
            raise ConfigError(f"--only: unknown section {name!r}{did_you_mean(name, SECTIONS)}; see --list.")
    for name in options.peers:
        if name not in PEERS:
            raise ConfigError(f"--peers: must be of {', '.join(PEERS)}, got {name!r}{did_you_mean(name, PEERS)}.")


def _options_record(options: EngineOptions) -> Record:
    return {**asdict(options), "out": None if options.out is None else str(options.out)}


def _write(path: Path, document: Record) -> None:
    """Replaces the file in one move."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
