import io
import random

import pytest

from unspool.data.columns import CONLLU, check, parse_format, read_sentences
from unspool.errors import ConfigError, DataError

CONLLU_TEXT = """\
# sent_id = 1
# text = don't go
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
1\tdo\tdo\tAUX\tVBP\tMood=Imp\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\t_
3.1\tgone\tgo\tVERB\t_\t_\t_\t_\t_\t_

# sent_id = 2

1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_
"""


def read(text, kind=CONLLU):
    data = text if isinstance(text, bytes) else text.encode()
    return list(read_sentences(io.BytesIO(data), kind, "a.conllu"))


def test_words_are_read_and_everything_else_is_kept():
    first, second = read(CONLLU_TEXT)
    assert first.column(1) == ["do", "n't", "go"]
    assert (first.first_line, second.first_line) == (1, 9)
    assert second.column(CONLLU.place("upos")) == ["INTJ"]
    changed = "".join(check(s).replaced({3: [f"X{i}" for i in range(len(s.rows))]}, "\t") for s in (first, second))
    before, after = CONLLU_TEXT.splitlines(), changed.splitlines()
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        if old != new:
            assert old.split("\t")[:3] + old.split("\t")[4:] == new.split("\t")[:3] + new.split("\t")[4:]
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\tdo\tdo\tAUX\tVBP\t_\t3\taux\t_", "a.conllu:1: 9 columns, expected 10; is a tab missing?"),
        ("2\tdo\tdo\tAUX\tVBP\t_\t3\taux\t_\t_", "a.conllu:1: id 2, expected 1; is a line or a blank line missing?"),
        ("x\tdo\tdo\tAUX\tVBP\t_\t3\taux\t_\t_", "a.conllu:1: id 'x' is no number, range (1-2) or empty node (8.1)"),
        ("1\t\tdo\tAUX\tVBP\t_\t3\taux\t_\t_", "a.conllu:1: column 2 is empty; what is not known is written _"),
    ],
)
def test_a_malformed_line_is_named(line, message):
    (sentence,) = read(line + "\n")
    with pytest.raises(DataError) as error:
        check(sentence)
    assert str(error.value) == message


def test_columns_of_any_kind_are_kept_to_the_last_space():
    kind = parse_format("form=0,pos=1,ner=3")
    text = "-DOCSTART- -X- O O\n\nEU  NNP I-NP   B-ORG\r\nrejects\tVBZ I-VP O\n\n"
    sentences = read(text, kind)
    assert [s.column(0) for s in sentences] == [[], ["EU", "rejects"]]
    assert "".join(s.replaced({3: ["A"] * len(s.rows)}, None) for s in sentences) == text.replace("B-ORG", "A").replace(
        "VP O", "VP A"
    )
    with pytest.raises(ConfigError, match="format must be conllu, or columns such as form=0,pos=1"):
        parse_format("form=x")
    with pytest.raises(ConfigError, match="no column 'pso'; did you mean 'pos'"):
        kind.place("pso")


def test_bytes_that_are_no_text_are_named_and_kept():
    (sentence,) = read(b"1\tdo\xff\tdo\tAUX\tVBP\t_\t3\taux\t_\t_\n")
    assert sentence.problem == "a.conllu:1: not UTF-8 (byte 5 of the line)"
    assert "".join(sentence.lines).encode("utf-8", "surrogateescape").count(b"\xff") == 1


def test_no_bytes_at_all_are_lost_whatever_the_file_holds():
    chance = random.Random(0)
    lines = [
        *CONLLU_TEXT.encode().splitlines(keepends=True),
        b"\n",
        b"\r\n",
        b"\xef\xbb\xbf",
        b"\xff\t\n",
        b"# x\n",
        b"1-2\n",
        b" \n",
    ]
    for _ in range(2000):
        data = b"".join(chance.choice(lines) for _ in range(chance.randrange(12)))
        cut = chance.randrange(len(data) + 1)
        data = data[:cut] + bytes(chance.randrange(256) for _ in range(chance.randrange(3))) + data[cut:]
        for kind in (CONLLU, parse_format("form=0,pos=1"), parse_format("form=0,pos=1,tab")):
            sentences = read(data, kind)
            text = "".join("".join(s.lines) for s in sentences)
            assert text.encode("utf-8", "surrogateescape") == data
            for s in sentences:
                assert s.problem is None or s.problem.startswith("a.conllu:")
                assert s.problem is not None or s.replaced({1: s.column(1)}, kind.separator) == "".join(s.lines)


def test_predictions_stand_in_their_column_whatever_white_space_is_around():
    kind = parse_format("form=0,pos=1")
    for text, wanted in (
        ("Ann \r\n", "Ann X \r\n"),
        ("\ufeffAnn\n", "\ufeffAnn X\n"),
        ("\ufeff  Ann y\t\n", "\ufeff  Ann X\t\n"),
    ):
        (sentence,) = read(text, kind.words_alone())
        assert sentence.column(0) == ["Ann"]
        assert sentence.replaced({1: ["X"]}, kind.separator) == wanted
    (sentence,) = read("\ufeffAnn y\n", parse_format("form=1,pos=0"))
    assert sentence.replaced({0: ["X"]}, None) == "\ufeffX y\n"


def test_ids_of_any_length_are_no_crash():
    (sentence,) = read("9" * 5000 + "\ta" + "\t_" * 8 + "\n")
    assert "expected 1; is a line" in sentence.problem


def test_a_format_names_every_column_and_place_once():
    for text in ("form=0,pos=0", "form=0,form=1"):
        with pytest.raises(ConfigError, match="every column once"):
            parse_format(text)


def test_lone_carriage_returns_are_named():
    (sentence,) = read("dog N\rcat N\r\rran V\r", parse_format("form=0,pos=1"))
    assert sentence.problem == "a.conllu:1: a carriage return within the line; lines end with LF or CR LF"
