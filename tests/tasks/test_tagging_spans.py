"""Chunks and names: any scheme in, decoding that contradicts no scheme, F1 as conlleval counts it."""

import json
import random

import pytest
from treebank import NETWORK, call

import unspool
from unspool.data.spans import misplaced
from unspool.data.vocabulary import Vocabulary
from unspool.tasks.tagging.assets import Assets, Target
from unspool.tasks.tagging.scores import Scores, summary

FAST = ["--batch-words", 150, "--learning-rate", 0.02, "--json"]


def names(count, seed, scheme):
    """Sentences such as ``Ann Lee saw Rome``, with names in IOB1 or BIO."""
    chance, lines = random.Random(seed), ["-DOCSTART- X O", ""]
    for _ in range(count):
        spans = [(["Ann", "Lee"], "PER"), (["saw"], None), (["Rome"], "LOC"), (["Ann"], "PER"), (["now"], None)]
        before = None
        for words, label in chance.sample(spans, chance.randint(2, 5)):
            for place, word in enumerate(words):
                mark = "B" if place == 0 and (scheme == "bio" or before == label) else "I"
                lines.append(f"{word} X {'O' if label is None else f'{mark}-{label}'}")
            before = label
        lines.append("")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module", params=["crf", "no_crf"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spans")
    for split, count in (("train", 200), ("dev", 30)):
        (folder / f"{split}.txt").write_text(names(count, count, "iob1"), encoding="utf-8")
    arguments = ["train", "tagging", "--train", folder / "train.txt", "--dev", folder / "dev.txt", "--out", folder / "m",
                 "--format", "form=0,ner=2", "--epochs", 14, *NETWORK, *FAST]  # fmt: skip
    assert call(*arguments, *([] if request.param == "crf" else ["--crf", "none"])) == 0
    return folder


def test_names_are_found_and_counted(trained, capsys):
    assert call("evaluate", trained / "m", "--data", trained / "dev.txt", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["ner_f1"] > 0.95
    assert set(values["spans"]["ner"]) == {"PER", "LOC"}
    assert call("evaluate", trained / "m", "--data", trained / "dev.txt") == 0
    assert "ner, spans" in capsys.readouterr().out


def test_tags_come_out_in_the_scheme_of_the_file_and_contradict_nothing(trained, capsys):
    (trained / "in.txt").write_text("Ann\nLee\nAnn\n\nxyz\nRome\nRome\nLee\nsaw\n", encoding="utf-8")
    assert call("predict", trained / "m", trained / "in.txt", "--out", trained / "out.txt") == 0
    rows = [line.split() for line in (trained / "out.txt").read_text().splitlines()]
    assert [row[0] for row in rows if row] == ["Ann", "Lee", "Ann", "xyz", "Rome", "Rome", "Lee", "saw"]
    first = [row[2] for row in rows[:3]]
    assert first == ["I-PER", "I-PER", "B-PER"]
    assert not misplaced([row[2] for row in rows[4:]], "iob1")


def test_the_likeliest_ways_have_falling_probabilities(trained, capsys):
    tagger = unspool.load(trained / "m")
    ways = tagger.nbest(["Ann", "saw", "Lee"], count=200)["ner"]
    probabilities = [p for _, p in ways]
    assert probabilities == sorted(probabilities, reverse=True)
    assert abs(sum(probabilities) - 1) < 1e-3
    assert all(not misplaced(tags, "iob1") for tags, _ in ways)
    (trained / "text.txt").write_text("Ann saw Rome.\n\nLee now\n", encoding="utf-8")
    assert call("predict", trained / "m", trained / "text.txt", "--text", "--n-best", 2) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["words"] for one in found] == [["Ann", "saw", "Rome", "."], ["Lee", "now"]]
    assert all(len(one["ner"]) == 2 for one in found)


def scores_of(name, gold, found, scheme="bio", is_conllu=True):
    tags = tuple(sorted({tag for row in gold + found for tag in row}))
    scores = Scores(
        Assets(Vocabulary(["seen"]), (1,), frozenset(), Vocabulary([]), (Target(name, tags, scheme, "bio"),)), True
    )
    for wanted, own in zip(gold, found, strict=True):
        scores.add(["seen", *["new"] * (len(wanted) - 1)], [wanted], [own])
    return scores.values("file")


def test_the_f1_is_that_of_conlleval():
    """The example of seqeval's README: F1 0.50; PER 1.00, MISC 0.00."""
    gold = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    values = scores_of("ner", gold, found)
    assert (values["ner_precision"], values["ner_recall"], values["ner_f1"]) == (0.5, 0.5, 0.5)
    assert values["spans"]["ner"]["PER"]["f1"] == 1.0
    assert values["spans"]["ner"]["MISC"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "count": 1}
    assert values["confusion"]["ner"] == [("B-MISC", "I-MISC", 1), ("O", "B-MISC", 1)]
    assert values["ner_accuracy"] == 0.8
    assert scores_of("ner", gold, found, is_conllu=False)["conll18"] == {}
    assert values["ner_accuracy_on_unknown_words"] == 6 / 8


def test_features_that_are_not_universal_do_not_count_for_conll18():
    gold, found = [["Case=Nom|Number[psor]=Sing", "Mood=Ind"]], [["Case=Nom", "Mood=Imp"]]
    values = scores_of("feats", gold, found, scheme=None)
    assert values["feats_accuracy"] == 0.0
    assert values["conll18"] == {"UFeats": 50.0}
    assert any("UFeats 50.00" in line for line in summary(values))
