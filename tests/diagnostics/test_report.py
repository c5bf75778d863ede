import json
import re

import pytest
import torch

from small_model import make
from unspool.cli import main
from unspool.diagnostics import record, report, selective_units, signals
from unspool.diagnostics.units import Signal

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    _, trainer = make(place, num_layers=2, cell="lstm")
    trainer.run()
    return place / "model"


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main([str(word) for word in arguments])
        return code, *capsys.readouterr()

    return call


def test_diagnose_writes_one_page_and_one_json_document(run, folder, tmp_path):
    page = tmp_path / "report.html"
    code, out, said = run("diagnose", folder, "--out", page, "--steps", 60, "--sequences", 2, "--json")
    assert code == 0, said
    values = json.loads(out)
    assert values["verdict"] == "healthy"
    assert [layer["layer"] for layer in values["layers"]] == ["stack.layers.0", "stack.layers.1"]
    assert len(values["layers"][0]["gradient_by_lag"]["c"]) == 60
    assert values["training"]["truncation"] == 16
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)|https?://(?!www\.w3\.org)', text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert len(data["symbols"]) == 60
    assert [s["name"] for s in data["signals"][:6]] == [
        "stack.layers.0 h", "stack.layers.0 c", "stack.layers.0 gate i", "stack.layers.0 gate f", "stack.layers.0 gate g",
        "stack.layers.0 gate o",
    ]  # fmt: skip
    assert text.count("<svg") == 7


def test_diagnose_says_in_words_what_it_found(run, folder):
    code, out, said = run("diagnose", folder, "--steps", 60, "--dependency", 50)
    assert code == 0, said
    assert out.startswith("vanishing: stack.layers.0: gradients vanish: each step leaves ")
    assert (
        "1. open the gate that keeps the state, for lags up to 50 (--chrono-max-lag 50); the gate f keeps half" in out
    )


def test_mistakes_are_one_line(run, folder, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("ab")
    for arguments, message in (
        ((folder, "--data", tmp_path / "none.txt"), "none.txt"),
        ((folder, "--data", short), "short.txt: 2 characters, a diagnosis needs at least 5; give a longer text."),
        ((folder, "--steps", 0), "steps must be at least 4, got 0."),
        ((tmp_path / "none",), "no such folder"),
        ((folder, "--out", tmp_path / "no" / "page.html"), "No such file or directory"),
    ):
        code, out, said = run("diagnose", *arguments)
        assert (code, out) == (2, ""), arguments
        assert message in said
        assert said.count("\n") == 1


def test_the_units_that_follow_a_feature_are_found():
    symbols = list("x = 'a quoted text'\nand (a (deeper) bracket)\n" * 8)
    inside, wanted = False, []
    for symbol in symbols:
        inside = False if symbol == "\n" else inside != (symbol == "'")
        wanted.append(float(inside))
    values = torch.randn(len(symbols), 9)
    values[:, 4] = -2 * torch.tensor(wanted) + 0.1 * torch.randn(len(symbols))
    best = selective_units([Signal("layer", "h", values, -1.0, 1.0)], symbols)[0]
    assert (best.unit, best.feature) == (4, "in quotes")
    assert best.correlation < -0.95


def test_a_page_holds_hostile_text_as_text(folder):
    from unspool.checkpoint import load_weights, open_folder
    from unspool.diagnostics import diagnose

    task = open_folder(folder).task
    model = task.build_model().eval()
    load_weights(model, folder)
    reading = task.reading("validation", 12, 2)
    found = diagnose(model, lambda: model.loss(reading.batch.last_step()).sum)
    hostile = ["</script><script>alert(1)</script>", "$title", "\u2028", *["a"] * 9]
    text = report("<b>title</b>", found, hostile, signals(found.recordings))
    assert "<script>alert(1)" not in text
    assert "&lt;b&gt;title" in text
    with record(model), torch.no_grad():
        model(reading.batch.inputs)
