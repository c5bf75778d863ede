"""The command line as scripts use it: in processes of its own."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from unspool.cli import main
from unspool.tensor_file import load_tensors

SMALL = ["--hidden-size", "16", "--embedding-size", "8", "--num-layers", "1", "--batch-size", "4", "--bptt-steps", "16"]
TRAIN = ["train", "language-modeling"]


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog.\n" * 80, encoding="utf-8")
    return path


@pytest.fixture
def model(tmp_path, text, capsys) -> Path:
    assert main([*TRAIN, "--data", str(text), "--out", str(tmp_path / "m"), *SMALL, "--max-steps", "5"]) == 0
    capsys.readouterr()
    return tmp_path / "m"


def start(*arguments, **options):
    command = [sys.executable, "-m", "unspool.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(*arguments):
    """Runs a command to its end, which must be a good one."""
    command = [sys.executable, "-m", "unspool.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)


def refused(capsys, *arguments) -> str:
    """The one line with which a command refuses."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_from_text_to_text(model, text, capsys):
    assert {"model.json", "tokenizer.json", "weights.safetensors", "last.safetensors", "metrics.jsonl"} <= {
        p.name for p in model.iterdir()
    }
    assert main(["evaluate", str(model), "--data", str(text), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {"nats_per_unit", "bits_per_character", "perplexity"} <= values.keys()
    generate = ["generate", str(model), "--prompt", "the ", "--length", "20", "--temperature", "0.8", "--top-k", "4"]
    assert main([*generate, "--top-p", "0.95", "--seed", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("the ")
    assert len(out) == 4 + 20 + 1


def test_settings_come_from_toml_and_flags_go_before_it(tmp_path, text, capsys):
    main(["config", "language-modeling"])
    toml = tmp_path / "c.toml"
    toml.write_text(capsys.readouterr().out.replace("hidden_size = 512", "hidden_size = 24"), encoding="utf-8")
    common = [*TRAIN, "--data", str(text), "--config", str(toml), *SMALL[2:], "--max-steps", "2"]
    assert main([*common, "--out", str(tmp_path / "a")]) == 0
    assert main([*common, "--out", str(tmp_path / "b"), "--hidden-size", "12"]) == 0
    sizes = [json.loads((tmp_path / n / "model.json").read_text())["settings"]["model"]["hidden_size"] for n in "ab"]
    assert sizes == [24, 12]


def test_the_outcome_as_json_is_all_that_is_printed(tmp_path, text, capsys):
    assert main([*TRAIN, "--data", str(text), "--out", str(tmp_path / "m"), *SMALL, "--max-steps", "3", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["step"] == 3
    assert captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hiden-size", "3"], "unknown flag --hiden-size; did you mean '--hidden-size'?"),
        (["--cell", "lsmt"], "unknown cell 'lsmt'; did you mean 'lstm'?"),
        (["--unit", "caracter"], "unit must be one of character, byte, word, bpe, got 'caracter'; did you mean"),
        (["--hidden-size", "0"], "hidden_size must be at least 1, got 0"),
        (["--hidden-size", "many"], "invalid int value: 'many'"),
        (["--dropout", "1.5"], "dropout must be at least 0 and below 1, got 1.5"),
        (["--learning-rate", "nan"], "learning_rate must be a finite number, got nan"),
        (["--data", "no-such-file.txt"], "no-such-file.txt: no such file or folder"),
        (["--config", "no-such.toml"], "no-such.toml: cannot be read"),
        (["--device", "quantum"], "device 'quantum' cannot be used here"),
        (["--device", "cuda:77"], "device 'cuda:77' cannot be used here"),
        (["--cell", "unspool.cells:GatedCell"], "must be a subclass of unspool.GatedCell"),
        (["--device", "meta"], "expected cpu, cuda, mps or xpu"),
        (["--forget-bias", "nan"], "forget_bias must be a finite number, got nan"),
        (["--hidden-size", "1000000000000"], "of 1000000000000 units cannot be run: RuntimeError"),
        (["--cell", "unspool.cells:Zoneout"], "cannot be run: AttributeError"),
        (["--cell", ":X"], "cannot be imported"),
        (["--cell", "mingru", "--weight-drop", "0.1"], "has no parameter 'weight_hh'"),
        (["--seed", "99999999999999999999"], "seed must be below 2**63"),
    ],
)
def test_wrong_flags_are_answered_with_one_line(tmp_path, text, capsys, arguments, message):
    given = arguments if "--data" in arguments else ["--data", text, *arguments]
    assert message in refused(capsys, *TRAIN, "--out", tmp_path / "m", "--max-steps", "1", *given)
    assert not (tmp_path / "m").exists() or not (tmp_path / "m" / "model.json").exists()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[model]\nhiden_size = 3", "unknown key 'hiden_size' in [model]; did you mean 'hidden_size'?"),
        ("[modle]\nhidden_size = 3", "unknown section [modle]; did you mean 'model'?"),
        ("[data]\nhidden_size = 3", "it belongs under [model]"),
        ("hidden_size = 3", "unknown section [hidden_size]; it belongs under [model]"),
        ("[model]\nhidden_size = 'big'", "hidden_size in [model] must be int, got 'big'"),
        ("[model]\ntied = 1", "tied in [model] must be bool, got 1"),
        ("[model", "not valid TOML"),
        ("a = " + "[" * 5000, "not valid TOML"),
        ("[training]\nlearning_rate = 1" + "0" * 400, "learning_rate in [training] must be float"),
    ],
)
def test_wrong_toml_is_answered_with_one_line(tmp_path, text, capsys, toml, message):
    path = tmp_path / "c.toml"
    path.write_text(toml, encoding="utf-8")
    line = refused(capsys, *TRAIN, "--data", text, "--out", tmp_path / "m", "--config", path)
    assert message in line
    assert "c.toml" in line


def test_bad_data_is_answered_with_one_line(tmp_path, capsys):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "folder").mkdir()
    expected = {
        "empty.txt": "the file is empty",
        "latin.txt": "latin.txt: not UTF-8 at byte 3 (0xe9)",
        "folder": "the folder holds no text",
    }
    for name, message in expected.items():
        assert message in refused(capsys, *TRAIN, "--data", tmp_path / name, "--out", tmp_path / "m")
    assert not (tmp_path / "m" / "model.json").exists()


def test_bad_model_folders_are_answered_with_one_line(tmp_path, model, text, capsys):
    card = json.loads((model / "model.json").read_text())
    evaluate = ("evaluate", model, "--data", text)
    assert "no such folder" in refused(capsys, "evaluate", tmp_path / "none", "--data", text)
    assert "not a model folder" in refused(capsys, "generate", tmp_path)
    assert "already holds a model" in refused(capsys, *TRAIN, "--data", text, "--out", model)
    assert "keeps its settings; leave out --hidden-size" in refused(
        capsys, *TRAIN, "--out", model, "--resume", "--hidden-size", "99"
    )
    assert "'é' (U+00E9) not in the model's vocabulary" in refused(capsys, "generate", model, "--prompt", "é")
    (model / "model.json").write_text(json.dumps(card | {"task": "taging"}))
    assert "holds a model for taging, expected one for language-modeling" in refused(capsys, "generate", model)
    assert "task 'taging' is not known" in refused(capsys, *evaluate)
    (model / "model.json").write_text(json.dumps(card | {"task": []}))
    assert "task [] is not known" in refused(capsys, *evaluate)
    (model / "model.json").write_text(json.dumps(card | {"format": 9}))
    assert "format 9" in refused(capsys, *evaluate)
    (model / "model.json").write_text("{")
    assert "model.json: the file is damaged" in refused(capsys, *evaluate)
    (model / "model.json").write_text(json.dumps(card))
    (model / "tokenizer.json").write_text("{}")
    assert "tokenizer.json: not a tokenizer" in refused(capsys, *evaluate)


def test_weights_without_a_card_are_never_overwritten(model, text, capsys):
    (model / "model.json").unlink()
    before = (model / "weights.safetensors").read_bytes()
    assert "holds weights.safetensors but no model.json" in refused(capsys, *TRAIN, "--data", text, "--out", model)
    assert (model / "weights.safetensors").read_bytes() == before


def test_a_file_with_a_name_that_is_no_text_is_a_file(tmp_path, text):
    odd = tmp_path / os.fsdecode(b"\xff.txt")
    odd.write_bytes(text.read_bytes())
    assert main([*TRAIN, "--data", str(odd), "--out", str(tmp_path / "m"), *SMALL, "--max-steps", "2"]) == 0
    assert main([*TRAIN, "--out", str(tmp_path / "m"), "--resume"]) == 0


def test_a_finished_run_can_be_resumed_without_harm(model, capsys):
    before = load_tensors(model / "last.safetensors").tensors
    assert main([*TRAIN, "--out", str(model), "--resume"]) == 0
    after = load_tensors(model / "last.safetensors").tensors
    assert all((before[name] == after[name]).all() for name in before)


def test_settings_are_printed_as_toml():
    assert "[training]" in finish("config", "language-modeling").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_the_run_cleanly(tmp_path, text, number):
    out = tmp_path / "m"
    command = (*TRAIN, "--data", "-", "--out", out, *SMALL, "--epochs", "100000")
    with text.open("rb") as file, start(*command, stdin=file) as process:
        _wait_for(lambda: (out / "metrics.jsonl").exists(), process)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "go on with --resume" in error
    assert "Traceback" not in error
    step = load_tensors(out / "last.safetensors").values["counters"]["step"]
    assert f"stopped after {step} updates" in error


def test_killed_and_resumed_runs_end_with_the_same_bits(tmp_path, text):
    _compare_killed(tmp_path, text, kills=3, steps=400)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tmp_path, text):
    _compare_killed(tmp_path, text, kills=10, steps=3000)


def _compare_killed(tmp_path, text, kills, steps):
    """Kills a run once while it begins, then at random moments of its updates, and compares it with one left alone."""
    flags = [*SMALL, "--data", text, "--max-steps", steps, "--epochs", "1000", "--checkpoint-seconds", "0.05"]
    flags += ["--dropout", "0.2", "--output-dropout", "0.2", "--weight-drop", "0.2", "--report-steps", "5"]
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    finish(*TRAIN, "--out", plain, *flags)
    chance = random.Random(0)
    moments = sorted(chance.sample(range(20, int(0.8 * steps)), kills - 1))
    resume = []
    for moment in [0, *moments]:
        with start(*TRAIN, "--out", killed, *(resume or flags)) as process:
            _wait_for(partial(_reached, killed, moment), process)
            time.sleep(chance.uniform(0.0, 0.1 if moment else 4.0))
            assert process.poll() is None, "the run ended before it was killed"
            process.kill()
        resume = ["--resume"] if (killed / "model.json").exists() else []
    finish(*TRAIN, "--out", killed, *(resume or flags))
    for name in ("weights.safetensors", "last.safetensors"):
        expected, found = (load_tensors(folder / name).tensors for folder in (plain, killed))
        assert expected.keys() == found.keys()
        assert all((expected[key] == found[key]).all() for key in expected)


def _reached(folder, step):
    """Whether a run in a folder has reported an update as late as this one since it was started."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if step and path.exists() else []
    return step == 0 or any(json.loads(line)["step"] >= step for line in lines if line.endswith("}"))


def _wait_for(condition, process):
    for _ in range(3000):
        if condition():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    raise AssertionError("nothing happened for a minute")
