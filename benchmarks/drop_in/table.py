"""Writes the measured tables of docs/drop-in.md from the JSON documents in docs/results.

python benchmarks/drop_in/table.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs/drop-in.md", ROOT / "docs/results"
BEGIN, END = "<!-- measured: benchmarks/drop_in/table.py -->\n", "<!-- end -->\n"


def layers(document):
    yield "| module | T, B, size | torch.nn, ms | unspool.nn, ms | times as fast (quartiles) |"
    yield "|---|---|---|---|---|"
    for case in document["cases"]:
        size = ", ".join(map(str, case["size"]))
        ms, ratio = case["milliseconds"], case["speed_up"]
        yield (
            f"| {case['name']} | {size} | {ms['torch']:.3g} | {ms['unspool']:.3g} "
            f"| {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) |"
        )


def models(documents):
    yield "| Stanza's tagger, an update | PyTorch, ms | accelerated, ms | times as fast (quartiles) | losses apart, relative |"
    yield "|---|---|---|---|---|"
    for document in documents:
        heads = "linear heads" if document["share_hid"] else "its default, biaffine heads"
        ms, ratio, apart = document["update_ms"], document["speed_up"], document["losses"]["apart"]
        yield (
            f"| {heads} | {ms['torch']:.0f} | {ms['unspool']:.0f} "
            f"| {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) "
            f"| {apart:.1e} over {len(document['losses']['torch'])} updates |"
        )


def measured():
    """The generated part of the page."""
    read = {
        name: json.loads((RESULTS / f"{name}.json").read_text())
        for name in ("drop-in", "stanza-tagger", "stanza-tagger-share-hid")
    }
    stanza = [read["stanza-tagger"], read["stanza-tagger-share-hid"]]
    versions = {**read["drop-in"]["versions"], **stanza[0]["versions"]}
    said = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines = [f"Threads: {read['drop-in']['threads']}; {said}.", "", *layers(read["drop-in"]), "", *models(stanza)]
    return "\n".join(lines) + "\n"


def page():
    """The whole page with its generated part anew."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + "\n" + measured() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page())
