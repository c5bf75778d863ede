"""The report of a diagnosis: one HTML page that needs nothing but itself, not even a network."""

import base64
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from unspool.diagnostics.diagnosis import Diagnosis
from unspool.diagnostics.figures import figures
from unspool.diagnostics.remedies import Verdict
from unspool.diagnostics.units import Selective, Signal

_MOST_BYTES = 4_000_000  # of unit activations in a page


def page(title: str, body: str, script_data: str = "null") -> str:
    """A self-contained page of the house."""
    template = Template(files("unspool.diagnostics").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(title), body=body, data=script_data.replace("<", "\\u003c"))


def card(title: str, words: str, content: str) -> str:
    """One section of a page; `words` is plain text, `content` HTML."""
    return f"<section><h2>{html.escape(title)}</h2><p>{html.escape(words)}</p>{content}</section>\n"


def report(
    title: str,
    diagnosis: Diagnosis,
    symbols: Sequence[str] = (),
    signals: Sequence[Signal] = (),
    selective: Sequence[Selective] = (),
) -> str:
    """The page of a diagnosis.

    Args:
        title: what was diagnosed.
        diagnosis: what was measured.
        symbols: of a language model, the text that its first sequence read, step by step.
        signals: what the units did on it (`unspool.diagnostics.signals`).
        selective: the units worth looking at (`unspool.diagnostics.selective_units`).

    Raises:
        ConfigError: matplotlib is not installed.
    """
    body = "".join(map(_verdict, diagnosis.verdicts)) + _table(diagnosis)
    data = "null"
    if symbols and signals:
        body += card(
            "One unit and the text",
            "The text coloured by one unit's value after each symbol: blue is low, orange is high. Step with the arrow "
            "keys or the buttons; the list names the units that follow something nameable most closely.",
            '<div id="units"></div>',
        )
        data = _text_data(symbols, signals, selective)
    body += "".join(card(*one) for one in figures(diagnosis))
    return page(title, body, data)


def _verdict(verdict: Verdict) -> str:
    remedies = "".join(
        f"<li><b>{html.escape(r.action)}</b>"
        + (f" <code>{html.escape(r.flags)}</code>" if r.settings else "")
        + f"<br><span>{html.escape(r.figure)} ({html.escape(r.reference)})</span></li>"
        for r in verdict.remedies
    )
    listed = f"<ol>{remedies}</ol>" if remedies else ""
    return f'<section class="verdict {verdict.kind}"><h2>{verdict.kind} {html.escape(verdict.layer)}</h2><p>{html.escape(verdict.words)}</p>{listed}</section>\n'


def _table(diagnosis: Diagnosis) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(f.layer)}</td><td>{type(one.cell).__name__}</td>"
        f"<td>{f.reach}</td>"
        f"<td>{f.growth:.4f} <small>({f.growth_low:.4f} to {f.growth_high:.4f})</small></td>"
        f"<td>{(f'{float(x.exponents[0]):+.4f}' if len(x.exponents) else '')}</td>"
        f"<td>{', '.join(f'{g} {r:.2f}' for g, r in x.spectral_radius.items()) or '-'}</td></tr>"
        for f, x, one in zip(diagnosis.flows, diagnosis.spectra, diagnosis.recordings, strict=True)
    )
    head = "".join(
        f"<th>{name}</th>"
        for name in ("layer", "cell", "memory horizon, steps", "growth of the gradient per step (95 % interval)", "largest Lyapunov exponent", "spectral radius of W_hh")
    )  # fmt: skip
    return f"<section><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></section>\n"


def _text_data(symbols: Sequence[str], signals: Sequence[Signal], selective: Sequence[Selective]) -> str:
    units = sum(signal.values.shape[1] for signal in signals)
    steps = max(1, min(len(symbols), _MOST_BYTES // max(1, units)))
    packed = []
    for signal in signals:
        scaled = ((signal.values[:steps] - signal.low) / (signal.high - signal.low)).clamp(0, 1)
        values = (255 * scaled).round().byte().t().contiguous().cpu().numpy().tobytes()
        packed.append(
            {"name": f"{signal.layer} {signal.name}", "units": signal.values.shape[1], "low": signal.low,
             "high": signal.high, "values": base64.b64encode(values).decode()}
        )  # fmt: skip
    chosen = [
        {"signal": s.signal, "unit": s.unit, "feature": s.feature, "r": round(s.correlation, 3)} for s in selective
    ]
    return json.dumps({"symbols": list(symbols[:steps]), "signals": packed, "selective": chosen})
