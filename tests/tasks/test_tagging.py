import gzip
import json
import shutil

import pytest
from treebank import NETWORK, call, treebank

import unspool


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagging")
    for split, count in (("train", 300), ("dev", 40)):
        (folder / f"{split}.conllu").write_text(treebank(count, len(split)), encoding="utf-8")
    arguments = [
        "train",
        "tagging",
        "--train",
        folder / "train.conllu",
        "--dev",
        folder / "dev.conllu",
        "--out",
        folder / "m",
    ]
    assert (
        call(
            *arguments,
            *NETWORK,
            "--max-steps",
            120,
            "--batch-words",
            200,
            "--learning-rate",
            0.02,
            "--epochs",
            20,
            "--json",
        )
        == 0
    )
    return folder


def test_context_decides(trained, capsys):
    assert call("evaluate", trained / "m", "--data", trained / "dev.conllu", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["upos_accuracy"] == values["xpos_accuracy"] == values["feats_accuracy"] == 1.0
    tagger = unspool.load(trained / "m")
    assert [tags["upos"] for tags in tagger.tag(["the", "well", "ran", "well"])] == ["DET", "NOUN", "VERB", "ADV"]
    assert tagger.tag([]) == []


def test_prediction_changes_nothing_but_the_predicted_columns(trained, capsys):
    blank = "\t_" * 8
    text = f"# a comment\r\n1-2\tawell{blank}\n1\ta{blank}\n2\twell{blank} y\n2.1\te\t_\tX{blank[:-4]}\n3\tran{blank}"
    (trained / "in.conllu").write_bytes(text.encode())
    assert call("predict", trained / "m", trained / "in.conllu", "--out", trained / "out.conllu") == 0
    for word, tag in (("1\ta", "DET"), ("2\twell", "NOUN"), ("3\tran", "VERB")):
        text = text.replace(f"{word}\t_\t_\t_\t_", f"{word}\t_\t{tag}\t{tag[0]}\tKind={tag.title()}")
    assert (trained / "out.conllu").read_bytes().decode() == text


def test_a_malformed_line_is_named_or_passed_on(trained, capsys):
    text = "1\ta\t_\t_\n\n1\twell\t_\t_\t_\t_\t_\t_\t_\t_\n\n"
    (trained / "bad.conllu").write_text(text, encoding="utf-8")
    assert call("predict", trained / "m", trained / "bad.conllu") == 2
    assert f"{trained / 'bad.conllu'}:1: 4 columns, expected 10; is a tab missing?" in capsys.readouterr().err
    assert call("predict", trained / "m", trained / "bad.conllu", "--skip-bad", "--out", trained / "out") == 0
    bad, good = (trained / "out").read_text().split("\n\n", 1)
    assert bad == "1\ta\t_\t_"
    assert good.startswith("1\twell\t_\t")
    assert good.split("\t")[3] in ("DET", "NOUN", "VERB", "ADV")


def test_mistakes_are_one_line(trained, capsys):
    train = ["train", "tagging", "--out", trained / "x"]
    for arguments, message in (
        (train, "train must be a file with sentences, got ''"),
        ([*train, "--train", trained / "none.conllu"], "none.conllu: no such file."),
        ([*train, "--train", trained / "train.conllu", "--targets", "pos"], "no column 'pos'"),
        (
            [*train, "--train", trained / "train.conllu", "--format", "conll"],
            "format must be conllu, or columns such as",
        ),
        ([*train, "--train", trained / "train.conllu", "--cell", "lstn"], "lstn"),
        ([*train, "--train", trained / "train.conllu", "--targets", "id,upos"], "columns other than id and form"),
        (
            ["predict", trained / "m", trained / "train.conllu", "--beam-size", 3],
            "--beam-size means nothing to a tagger",
        ),
        (["predict", trained / "m", trained / "none.conllu"], "none.conllu: no such file."),
        (["generate", trained / "m"], "holds a model for tagging, expected one for language-modeling"),
    ):
        assert call(*arguments) == 2
        assert message in capsys.readouterr().err
        assert not (trained / "x" / "model.json").exists()


def test_a_tagger_is_diagnosed_like_any_other_model(trained, capsys):
    assert call("diagnose", trained / "m", "--data", trained / "dev.conllu", "--json") == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert {layer["layer"] for layer in layers} >= {"spelling.forward_layer", "stack.layers.0.backward_layer"}
    assert call("diagnose", trained / "m", "--data", trained / "dev.conllu", "--out", trained / "page.html") == 0
    assert "stack.layers.0.backward_layer" in (trained / "page.html").read_text(encoding="utf-8")


def test_small_treebanks_are_read_more_often():
    task = object.__new__(unspool.tasks.Tagging)
    assert (task.epochs(40), task.epochs(1000)) == (63, 20)


def test_a_run_that_is_begun_again_ends_with_the_same_weights(tmp_path, capsys):
    (tmp_path / "train.conllu").write_text(treebank(60, 3), encoding="utf-8")
    train = ["train", "tagging", "--train", tmp_path / "train.conllu", "--batch-words", 60, "--threads", 1, "--json"]
    assert call(*train, *NETWORK, "--epochs", 3, "--out", tmp_path / "whole") == 0
    assert call(*train, *NETWORK, "--epochs", 3, "--out", tmp_path / "parts") == 0
    (tmp_path / "parts" / "last.safetensors").unlink()
    (tmp_path / "parts" / "weights.safetensors").unlink()
    assert call("train", "tagging", "--resume", "--out", tmp_path / "parts", "--json") == 0
    whole, parts = (unspool.load(tmp_path / name).model.state_dict() for name in ("whole", "parts"))
    assert all(whole[name].equal(parts[name]) for name in whole)


def test_a_file_may_be_predicted_into_itself(trained, capsys):
    path = trained / "same.conllu"
    path.write_text(treebank(5, 9), encoding="utf-8")
    assert call("predict", trained / "m", path, "--out", path) == 0
    assert path.read_text(encoding="utf-8") == treebank(5, 9)
    path.write_text("broken\n", encoding="utf-8")
    assert call("predict", trained / "m", path, "--out", path) == 2
    assert path.read_text(encoding="utf-8") == "broken\n"
    assert not list(trained.glob("*.new"))


def test_what_is_named_gz_is_packed(trained, capsys):
    path = trained / "packed.conllu.gz"
    path.write_bytes(gzip.compress(treebank(5, 9).encode()))
    assert call("predict", trained / "m", path, "--out", path) == 0
    assert gzip.decompress(path.read_bytes()).decode() == treebank(5, 9)


@pytest.mark.parametrize("damage", ["[" * 100_000, "{}", '{"words": [1]}'])
def test_a_damaged_vocabulary_is_one_line(trained, damage, capsys):
    shutil.copytree(trained / "m", trained / "damaged", dirs_exist_ok=True)
    (trained / "damaged" / "vocabulary.json").write_text(damage, encoding="utf-8")
    assert call("evaluate", trained / "damaged", "--data", trained / "dev.conllu") == 2
    assert "the model folder is damaged" in capsys.readouterr().err
