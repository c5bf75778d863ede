import json
import math
import re

import pytest

from unspool.cli import main
from unspool.diagnostics import student_quantile
from unspool_lab import EXPERIMENTS, Experiment, LabOptions, Result, run_lab


def test_quantiles_of_students_t_are_those_of_the_tables():
    for freedom, wanted in ((1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (19, 2.093), (120, 1.980)):
        assert student_quantile(0.975, freedom) == pytest.approx(wanted, abs=5e-3)


def test_relu_variance_prints_the_growth_per_step_that_theory_predicts(capsys):
    assert main(["lab", "relu-variance", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = document["rows"]
    assert [(r["k"], r["direction"]) for r in rows] == [(k, d) for k in (1, 1.5, 2, 3) for d in ("forward", "backward")]
    for row in rows:
        assert row["theory"] == pytest.approx(math.log(row["k"] / 2), abs=1e-12)
        assert row["low"] <= row["theory"] <= row["high"]
        assert row["high"] - row["low"] < 0.12
    assert document["holds"]


def test_the_lstms_gradient_is_the_product_of_its_forget_gates():
    result = EXPERIMENTS["lstm-gates"].run(3, lambda line: None)
    assert result.holds
    assert all(row["relative_error"] < 1e-6 for row in result.rows)


def test_derivatives_die_where_activations_saturate():
    result = EXPERIMENTS["saturation"].run(3, lambda line: None)
    assert result.holds
    for row in result.rows:
        assert row["measured"] == pytest.approx(row["theory"], rel=0.05)


def test_one_page_holds_all_experiments_that_were_run(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["lab", "lstm-gates", "saturation", "--out", str(tmp_path / "lab")]) == 0
    assert "It holds." in capsys.readouterr().out
    text = (tmp_path / "lab" / "lab.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "unspool lab lstm-gates --seed 0" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)|https?://(?!www\.w3\.org)', text)


def test_mistakes_are_one_line(capsys):
    for arguments, message in (
        (["lab"], "name an experiment (relu-variance, saturation, lstm-gates, clipping, tasks-order, long-range)"),
        (["lab", "relu-varianc"], "lab: no experiment 'relu-varianc' among relu-variance, saturation,"),
        (["lab", "--all", "saturation"], "lab: --all runs every experiment; leave out the names."),
        (["lab", "--all", "--seed", "-1"], "seed must be at least 0 and below 2**63, got -1."),
    ):
        assert main(arguments) == 2
        out, said = capsys.readouterr()
        assert (out, said.count("\n")) == ("", 1)
        assert message in said


def test_an_experiment_that_does_not_hold_says_so(capsys):
    failed = Experiment("never", "a claim", lambda seed, say: Result([{"x": 1.0, "y": None}], "It failed.", False))
    assert not run_lab([failed], LabOptions())
    assert "It does NOT hold here. It failed." in capsys.readouterr().out
    run_lab([failed, failed], LabOptions(json=True))
    assert [e["holds"] for e in json.loads(capsys.readouterr().out)["experiments"]] == [False, False]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clipping", "tasks-order", "long-range"])
def test_claims_that_take_training_hold(name):
    assert EXPERIMENTS[name].run(0, lambda line: None).holds
