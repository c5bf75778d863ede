"""What is shown of a run: a line for each pair of contenders, and means over each section."""

from collections.abc import Iterator, Sequence
from typing import Any

from unspool_benchmarks.case import OURS, Record
from unspool_benchmarks.timing import geometric_mean

HEADER = (
    f"{'case':44s} {'thr':>3s} {'ours ms':>10s} {'peer':<14s} {'peer ms':>10s} {'peer/ours':>9s}"
    f" {'quartiles':>15s} {'floor ms':>9s} {'/floor':>7s}"
)
_LARGE_ROWS, _LARGE_UNITS = 16, 256


def lines(record: Record) -> Iterator[str]:
    """A case as lines of the table: one for each peer, then figures, absences and failures."""
    title = f"{record['section']}: {record['name']}"
    if "error" in record or "skipped" in record:
        word = "error" if "error" in record else "skipped"
        yield f"{title:44s} {record['threads']:3d} {word}: {record[word]}"
        return
    for peer in record.get("ratios", {}) or ([None] if "milliseconds" in record else []):
        yield _line(title, record, peer)
        title = ""
    if record.get("derived"):
        figures = ", ".join(f"{name} {value:.4g}" for name, value in record["derived"].items())
        yield f"{title:44s} {record['threads']:3d} {figures}"
        title = ""
    for name, reason in record["absent"].items():
        if reason != "not asked for":
            yield f"{title:44s} {record['threads']:3d} absent: {name}: {reason}"
    for name, check in record["checks"].items():
        if not check["passed"]:
            yield (
                f"{title:44s} {record['threads']:3d} WRONG NUMBERS: {name}: {check['worst']} differs by "
                f"{'infinity or NaN' if check['error'] is None else _number(check['error'], 1)}, allowed {check['tolerance']:.2g}"
            )


def summary_lines(summaries: Sequence[Record]) -> Iterator[str]:
    """The means as a table."""
    yield (
        f"{'section':16s} {'cell':18s} {'thr':>3s} {'peer':<14s} {'cases':>5s} {'geo. mean':>9s} {'least':>7s}"
        f" {'large':>7s} {'/floor':>7s}"
    )
    for row in summaries:
        large, floor = row["large_geometric_mean"], row["over_floor_geometric_mean"]
        yield (
            f"{row['section']:16s} {row['cell']:18s} {row['threads']:3d} {row['peer']:<14s} {row['cases']:5d}"
            f" {row['geometric_mean']:9.3g} {row['least']:7.3g} {_number(large, 7)} {_number(floor, 7)}"
        )


def summarize(records: Sequence[Record]) -> list[Record]:
    """Geometric means of peer/ours over the cases of each section, cell, type, thread count and peer.

    `least` is the smallest ratio; `large` the mean over cases of at least 16 rows and 256 units.
    """
    groups: dict[tuple[Any, ...], list[tuple[float, Record]]] = {}
    for record in records:
        for peer, ratio in record.get("ratios", {}).items():
            settings = record["settings"]
            key = (record["section"], settings.get("cell", ""), settings.get("dtype", ""), record["threads"], peer)
            groups.setdefault(key, []).append((ratio["median"], record))
    return [_mean(key, found) for key, found in groups.items()]


def _mean(key: tuple[Any, ...], found: Sequence[tuple[float, Record]]) -> Record:
    section, cell, dtype, threads, peer = key
    large = [ratio for ratio, record in found if _is_large(record["settings"])]
    floors = [record["over_floor"] for _, record in found if "over_floor" in record]
    return {
        "section": section,
        "cell": f"{cell} {dtype}".strip(),
        "threads": threads,
        "peer": peer,
        "cases": len(found),
        "geometric_mean": geometric_mean([ratio for ratio, _ in found]),
        "least": min(ratio for ratio, _ in found),
        "large_geometric_mean": geometric_mean(large) if large else None,
        "over_floor_geometric_mean": geometric_mean(floors) if floors else None,
    }


def _is_large(settings: Record) -> bool:
    return settings.get("B", 0) >= _LARGE_ROWS and settings.get("H", 0) >= _LARGE_UNITS


def _line(title: str, record: Record, peer: str | None) -> str:
    milliseconds = record["milliseconds"]
    line = f"{title:44s} {record['threads']:3d} {milliseconds[OURS]['median']:10.4g}"
    if peer is not None:
        ratio = record["ratios"][peer]
        quartiles = f"{ratio['low']:.3g}..{ratio['high']:.3g}"
        line += f" {peer:<14s} {milliseconds[peer]['median']:10.4g} {ratio['median']:9.3g} {quartiles:>15s}"
    else:
        line += " " * 52
    return f"{line} {_number(record.get('floor_ms'), 9)} {_number(record.get('over_floor'), 7)}"


def _number(value: float | None, width: int) -> str:
    return " " * width if value is None else f"{value:{width}.3g}"
