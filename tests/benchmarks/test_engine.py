"""The suite runs at a tiny size, checks its own numbers, and says what it could not run. Nothing here looks at times."""

import json
import math

import numpy as np
import pytest

from unspool.cli import main
from unspool_benchmarks import SECTIONS, Limits, Pace, interleave
from unspool_benchmarks.case import Case, Contender, run_case
from unspool_benchmarks.floors import LayerShape, layer_floor, layer_flops
from unspool_benchmarks.report import lines, summarize
from unspool_benchmarks.timing import ratio_spread, spread

TINY = ["--sizes", "5,4,8", "--threads", "1", "--rounds", "1", "--peers", "torch"]


@pytest.mark.parametrize("section", [name if name != "memory" else "memory:checkpointed" for name in SECTIONS])
def test_every_section_gives_one_document_with_all_checks_true(section, capsys, tmp_path):
    kept = tmp_path / "out.json"
    assert main(["bench", "engine", "--json", "--only", section, *TINY, "--out", str(kept)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(kept.read_text(encoding="utf-8"))
    assert {"machine", "limits", "options", "cases", "summary"} <= set(document)
    assert document["machine"]["versions"]["torch"]
    measured = [case for case in document["cases"] if "skipped" not in case]
    assert measured
    for case in measured:
        assert case["passed"], case
        assert case["checks"]
        assert all(check["passed"] for check in case["checks"].values())


def test_the_table_names_cases_peers_and_means(capsys):
    assert main(["bench", "engine", "--only", "training:GRU", *TINY]) == 0
    shown = capsys.readouterr()
    assert "training: GRU 5,4,8" in shown.out
    assert "LSTM" not in shown.out
    assert "geo. mean" in shown.out
    assert "[1/1] training: GRU 5,4,8" in shown.err


def test_the_list_names_every_section_and_measures_nothing(capsys):
    assert main(["bench", "engine", "--list"]) == 0
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()] == list(SECTIONS)
    assert not shown.err


def test_an_unknown_section_or_peer_is_refused_with_the_nearest_name(capsys):
    assert main(["bench", "engine", "--only", "trainin"]) == 2
    assert "did you mean 'training'" in capsys.readouterr().err
    assert main(["bench", "engine", "--peers", "jacks"]) == 2
    assert "--peers: must be of torch, jax" in capsys.readouterr().err


def contender(name, values):
    return Contender(name, lambda: None, lambda: {"output": np.array(values)})


def record_of(*contenders):
    case = Case({"T": 1}, contenders, lambda: {"output": np.array([1.0, 2.0])})
    return run_case(case, Pace(rounds=1)) | {"section": "some", "name": "case", "threads": 1}


def test_a_contender_with_wrong_numbers_is_named_and_not_timed():
    record = record_of(contender("unspool", [1.0, 2.0]), contender("peer", [1.0, 2.1]))
    assert not record["passed"]
    assert set(record["milliseconds"]) == {"unspool"}
    assert any("WRONG NUMBERS: peer: output differs by 0.05" in line for line in lines(record))


def test_nothing_is_timed_where_our_own_numbers_are_wrong_or_not_finite():
    for values in ([1.0, 3.0], [1.0, math.nan]):
        record = record_of(contender("unspool", values), contender("peer", [1.0, 2.0]))
        assert not record["passed"]
        assert "milliseconds" not in record
        assert json.dumps(record, allow_nan=False)


def test_a_peer_that_cannot_run_is_named_with_the_reason():
    def fails():
        raise RuntimeError("no such primitive")

    record = record_of(contender("unspool", [1.0, 2.0]), Contender("peer", fails, fails))
    assert record["passed"]
    assert "no such primitive" in record["absent"]["peer"]


def test_contenders_are_called_in_turn_and_the_order_rotates():
    order = []
    pace = Pace(rounds=3, sample_seconds=0.0, settle_seconds=0.0)
    samples = interleave({name: lambda name=name: order.append(name) for name in "abc"}, pace)
    assert "".join(order[-9:]) == "abcbcacab"
    assert {name: len(values) for name, values in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_taken_within_each_round():
    assert ratio_spread([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == (2.0, 2.0, 2.0)
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 2.0, 4.0)


def test_means_are_geometric_and_large_sizes_stand_apart():
    def record(rows, ratio):
        settings = {"cell": "LSTM", "B": rows, "H": 256}
        return {"section": "s", "threads": 1, "settings": settings, "ratios": {"torch": {"median": ratio}}}

    (row,) = summarize([record(1, 1.0), record(16, 4.0)])
    assert row["geometric_mean"] == pytest.approx(2.0)
    assert row["large_geometric_mean"] == pytest.approx(4.0)
    assert row["least"] == 1.0


def test_the_floor_is_products_at_the_peak_and_weights_at_the_bandwidth():
    limits = Limits(1, flops=1e9, bf16_flops=2e9, reads=((1024, 1e9), (1 << 20, 1e9)))
    shape = LayerShape(num_steps=10, batch_size=100, input_size=8, hidden_size=8, num_gates=4)
    assert layer_flops(shape, training=True) == 6 * 2 * 10 * 100 * 8 * 32
    assert layer_floor(shape, limits, training=True) == pytest.approx(layer_flops(shape, True) / 1e9)
    narrow = LayerShape(10, 1, 8, 8, 4)  # reads 1024 bytes a step, longer than its 512 operations take
    assert layer_floor(narrow, limits, training=False) == pytest.approx(2 * 10 * 8 * 32 / 1e9 + 10 * 4 * 8 * 32 / 1e9)
