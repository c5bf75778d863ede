"""Running experiments: lines or JSON for the terminal, one page of all for a browser."""

import html
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unspool.config import to_json
from unspool.diagnostics import card, draw, page
from unspool_lab.experiment import Experiment, Result, Row, Say


@dataclass(frozen=True)
class LabOptions:
    """How experiments are run.

    Attributes:
        seed: of everything random.
        json: print one JSON document and nothing else on standard output.
        out: folder for the page, lab.html; None for none.
    """

    seed: int = 0
    json: bool = False
    out: Path | None = None


def run_lab(experiments: Sequence[Experiment], options: LabOptions) -> bool:
    """Runs experiments one after the other; returns whether every claim held.

    Raises:
        ConfigError: a page is wanted and matplotlib is not installed.
    """
    if options.out is not None:
        draw(lambda figure: None)  # refuses before the work, not after it
        options.out.mkdir(parents=True, exist_ok=True)
    found: list[tuple[Experiment, Result, float]] = []
    for one in experiments:
        began = time.monotonic()
        result = one.run(options.seed, _reporter(one.name))
        found.append((one, result, time.monotonic() - began))
        if not options.json:
            print(
                f"\n{one.name}: {one.claim}\n\n{_text(result.rows)}\n\n{_verdict(result)} {result.words}\n", flush=True
            )
        if options.out is not None:  # after each: an interrupted run leaves what it had
            (options.out / "lab.html").write_text(_page(found, options.seed), encoding="utf-8")
    documents = [_document(*parts, options.seed) for parts in found]
    if options.json:
        print(to_json(documents[0] if len(documents) == 1 else {"experiments": documents}))
    elif options.out is not None:
        print(f"the page is {options.out / 'lab.html'}", file=sys.stderr)
    return all(result.holds for _, result, _ in found)


def _reporter(name: str) -> Say:
    return lambda line: print(f"{name}: {line}", file=sys.stderr, flush=True)


def _document(one: Experiment, result: Result, seconds: float, seed: int) -> dict[str, Any]:
    return {
        "experiment": one.name, "claim": one.claim, "seed": seed, "holds": result.holds, "words": result.words,
        "rows": result.rows, "seconds": round(seconds, 1),
    }  # fmt: skip


def _verdict(result: Result) -> str:
    return "It holds." if result.holds else "It does NOT hold here."


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(rows: Sequence[Row]) -> str:
    names = _columns(rows)
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(names))]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def _table(rows: Sequence[Row]) -> str:
    names = _columns(rows)
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(row.get(name)))}</td>" for name in names) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _page(found: Sequence[tuple[Experiment, Result, float]], seed: int) -> str:
    body = ""
    for one, result, seconds in found:
        body += (
            f'<section class="verdict {"healthy" if result.holds else "failed"}"><h2>{html.escape(one.name)}</h2>'
            f"<p>{html.escape(one.claim)}</p><p><b>{_verdict(result)}</b> {html.escape(result.words)}</p>"
            f"<p><small>{seconds:.1f} s, seed {seed}: <code>unspool lab {one.name} --seed {seed}</code></small></p></section>\n"
        )
        for figure in result.figures:
            body += card(figure.title, figure.words, draw(figure.paint, height=figure.height))
        body += f"<section>{_table(result.rows)}</section>\n"
    return page("The lab: what a textbook says, measured", body)
