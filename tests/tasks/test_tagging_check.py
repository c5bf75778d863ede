import json

import pytest
from treebank import call

BLANK = "\t_" * 4


def row(number, word, upos):
    return f"{number}\t{word}\t_\t{upos}\t_\t_{BLANK}\n"


@pytest.fixture
def files(tmp_path):
    train, dev = tmp_path / "train.conllu", tmp_path / "dev.conllu"
    train.write_text(row(1, "a", "DET") + row(2, "dog", "NOUN") + "\n" + row(1, "dog", "NOUN") + "\n", encoding="utf-8")
    dev.write_text(
        row(1, "Dog", "NOUN") + row(2, "ran", "VERB") + "\n" + row(1, "dog", "NOUN") + "\n", encoding="utf-8"
    )
    return train, dev


def test_splits_are_counted_and_compared(files, capsys):
    train, dev = files
    assert call("check", "tagging", train, dev, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    first, second = (found["values"][str(path)] for path in files)
    assert first["upos tags"] == {"NOUN": 2, "DET": 1}
    assert first["longest sentence"] == "2 words, line 1"
    assert second["unknown words"] == "33.3 %"
    assert second[f"sentences also in {train}"] == 1
    assert f"{dev}: upos has tags that {train} has not, 1 words: VERB" in found["notes"]


def test_every_problem_is_named_with_its_line(files, capsys):
    train, _ = files
    train.write_text("1\ta\n\n" + row(2, "b", "X") + "\n" + row(1, "c", "X") + "\n", encoding="utf-8")
    assert call("check", "tagging", train) == 2
    shown = capsys.readouterr()
    assert f"{train}:1: 2 columns, expected 10" in shown.out
    assert f"{train}:3: id 2, expected 1" in shown.out
    assert "unspool: 2 problems in" in shown.err


def test_tags_of_spans_that_contradict_their_scheme_are_problems(tmp_path, capsys):
    path = tmp_path / "ner.txt"
    good = "Ann B-PER\nLee I-PER\nran O\nRome B-LOC\n\n"
    path.write_text(good * 3 + "Rome I-LOC\nLee O\n\n", encoding="utf-8")
    assert call("check", "tagging", path, "--format", "form=0,ner=1") == 2
    assert f"{path}:16: ner I-LOC after the beginning is no BIO" in capsys.readouterr().out


def test_a_file_without_words_is_a_problem(tmp_path, capsys):
    (tmp_path / "empty").write_text("", encoding="utf-8")
    assert call("check", "tagging", tmp_path / "empty") == 2
    assert f"{tmp_path / 'empty'}: no words." in capsys.readouterr().out
    assert call("check", "tagging", tmp_path / "none") == 2
    assert "no such file" in capsys.readouterr().err


def test_a_stray_tag_among_those_of_spans_is_noted(tmp_path, capsys):
    (tmp_path / "ner.txt").write_text("Ann B-PER\nran 0\n\n" * 2 + "Ann B-PER\nLee I-PER\n\n", encoding="utf-8")
    assert call("check", "tagging", tmp_path / "ner.txt", "--format", "form=0,ner=1") == 0
    assert "ner looks like spans but for the tags 0" in capsys.readouterr().out
