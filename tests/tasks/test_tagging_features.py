"""Features from elsewhere: word vectors, and character language models of one's own."""

import json
import shutil

import pytest
import torch
from treebank import NETWORK, call, treebank

import unspool
from unspool.tasks.tagging.features import WordFeatures

LM = ["--hidden-size", 10, "--num-layers", 1, "--embedding-size", 6, "--max-steps", 4, "--batch-size", 4, "--json"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    (folder / "text.txt").write_text("the well ran dry\na dog slept fast\n" * 60, encoding="utf-8")
    for name in ("forward", "backward"):
        direction = ["--backward"] if name == "backward" else []
        data = ["--data", folder / "text.txt", "--out", folder / name]
        assert call("train", "language-modeling", *data, *LM, *direction) == 0
    (folder / "words.vec").write_text("2 3\nthe 1 0 0.5\nwell 0 1 -0.5\n", encoding="utf-8")
    (folder / "train.conllu").write_text(treebank(80, 1), encoding="utf-8")
    return folder


def test_states_at_the_edges_of_words_are_those_of_reading_alone(models):
    given = WordFeatures.adopt("", 1, f"{models / 'forward'},{models / 'backward'}", models)
    assert given.size == 20
    found = given([["the", "well"], ["a"]])
    forward, backward = given.contexts
    for context, text, step, place in (
        (forward, "\nthe", 3, (0, 0)),
        (forward, "\nthe well", 8, (1, 0)),
        (backward, "\nllew", 4, (1, 0)),
        (backward, "\nllew eht", 8, (0, 0)),
        (forward, "\na", 1, (0, 1)),
    ):
        tokens = torch.tensor(context.tokenizer.encode(text)).unsqueeze(1)
        own = context.model.stack(context.model.embed(tokens)).output[step, 0]
        half = slice(0, 10) if context is forward else slice(10, 20)
        torch.testing.assert_close(found[place][half], own, rtol=1e-3, atol=1e-4)  # features are in half precision
    assert found[1, 1].eq(0).all()


def test_a_backward_model_reads_its_text_from_the_end(models, capsys):
    values = unspool.load(models / "backward").evaluate(str(models / "text.txt"))
    assert values["nats_per_unit"] > 0
    assert call("generate", models / "backward") == 2
    assert "reads texts from their end" in capsys.readouterr().err


def test_a_tagger_takes_vectors_and_models_with_it(models, capsys):
    folder = models / "m"
    arguments = ["train", "tagging", "--train", models / "train.conllu", "--dev", models / "train.conllu", "--out", folder,
                 "--vectors", models / "words.vec", "--language-models", f"{models / 'forward'}, {models / 'backward'}",
                 "--max-steps", 6, "--batch-words", 100, "--json", *NETWORK]  # fmt: skip
    assert call(*arguments) == 0
    capsys.readouterr()
    assert call("evaluate", folder, "--data", "validation", "--json") == 0
    before = json.loads(capsys.readouterr().out)["upos_accuracy"]
    moved = models / "moved"
    shutil.copytree(folder, moved, ignore=shutil.ignore_patterns("tokens", "last.safetensors"))
    hidden = [path.rename(path.with_suffix(".away")) for path in (models / "forward", models / "words.vec")]
    try:
        assert call("evaluate", moved, "--data", models / "train.conllu", "--json") == 0
        assert json.loads(capsys.readouterr().out)["upos_accuracy"] == pytest.approx(
            before, abs=0.01
        )  # features were rounded
        assert len(unspool.load(moved).tag(["the", "well", "ran"])) == 3
    finally:
        for path, old in zip(hidden, (models / "forward", models / "words.vec"), strict=True):
            path.rename(old)


def test_mistakes_are_one_line(models, capsys):
    train = ["train", "tagging", "--train", models / "train.conllu", "--out", models / "x"]
    (models / "bad.vec").write_text("the 1 0\nwell 1\n", encoding="utf-8")
    for arguments, message in (
        (["--vectors", models / "none.vec"], "none.vec: no such file; expected word vectors"),
        (["--vectors", models / "bad.vec"], "bad.vec:2: expected a word and 2 numbers up to 65,504, got 'well 1"),
        (["--language-models", models / "text.txt"], "text.txt: not a folder of a language model"),
        (["--language-models", models / "m"], "holds a model for tagging, expected one for language-modeling"),
    ):
        assert call(*train, *arguments) == 2
        assert message in capsys.readouterr().err
