"""Where a translator looked: one self-contained page with a picture of each sentence's alignment."""

import html
from collections.abc import Sequence
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 72rem; color: #222; }}
table {{ border-collapse: collapse; margin: 1.5rem 0 2.5rem; }}
th {{ font-weight: normal; text-align: right; padding: 0 .5em; white-space: pre; }}
thead th {{ writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: .5em 0; }}
td {{ width: 1.5em; height: 1.5em; border: 1px solid #eee; }}
</style>
<h1>{title}</h1>
<p>Rows are what was written, columns what was read; the darker a square, the more of its attention the model gave
(its weight, on the pointer). Rows sum to one.</p>
{tables}
</html>
"""


def alignment_page(title: str, sentences: Sequence[tuple[Sequence[str], Sequence[str], Any]]) -> str:
    """A page of tables.

    Args:
        title: what was translated.
        sentences: for each the symbols read, the symbols written, and weights [written, read].
    """
    tables = "\n".join(_table(*sentence) for sentence in sentences)
    return _PAGE.format(title=html.escape(f"Attention: {title}"), tables=tables or "<p>No sentence was translated.</p>")


def _table(read: Sequence[str], written: Sequence[str], weights: Any) -> str:
    head = "".join(f"<th>{html.escape(symbol)}</th>" for symbol in read)
    rows = []
    for symbol, row in zip(written, weights.tolist(), strict=True):
        cells = "".join(f'<td style="background:rgba(20,70,160,{w:.3f})" title="{w:.3f}"></td>' for w in row)
        rows.append(f"<tr><th>{html.escape(symbol)}</th>{cells}</tr>")
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
