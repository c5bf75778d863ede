"""Readers of sentences, spans, vectors and plain text on inputs that nobody thinks of.

By hand, for 200,000 inputs of each reader:  python tests/data/test_readers_survive.py 200000
"""

import io
import re
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unspool.data.columns import parse_format, read_sentences
from unspool.data.plain_text import split_text
from unspool.data.spans import SCHEMES, detect_scheme, misplaced, spans_of, tags_of
from unspool.data.vectors import read_vectors
from unspool.errors import DataError

INPUTS = int(sys.argv[1]) if __name__ == "__main__" else 300
often = settings(max_examples=INPUTS, deadline=2000, suppress_health_check=list(HealthCheck), database=None)

CELLS = st.sampled_from(
    ["1", "2", "3", "1-2", "8.1", "0.1", "01", "-1", "_", "", " ", "the", "B-PER", "I-", "O", "#", "-DOCSTART-", "\u2028",
     "\x85", "\x0c", "\x00", "\ufeff", "é", "e\u0301", "ن", "𝒳", "9" * 5000]
) | st.text(max_size=4)  # fmt: skip
LINES = st.builds(
    lambda cells, between, end: between.join(cells) + end,
    st.lists(CELLS, max_size=12),
    st.sampled_from(["\t", " ", "\t\t", "  "]),
    st.sampled_from(["\n", "\r\n", "\r", ""]),
)
WELL_FORMED = st.builds(
    lambda number, word: f"{number}\t{word}" + "\t_" * 8 + "\n", st.integers(1, 4), st.text(min_size=1, max_size=3)
)
FILES = st.lists(st.just("\n") | LINES | WELL_FORMED, max_size=12).map("".join)
BYTES = FILES.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60)
FORMATS = st.sampled_from(["conllu", "form=0", "form=1,pos=0", "form=0,pos=3,tab", "form=2,tab"])
TAGS = st.lists(st.builds(lambda m, x: m + x, st.sampled_from(["B-", "I-", "E-", "S-", "O", "", "X-"]), st.sampled_from(["", "A", "B-"])), max_size=8)  # fmt: skip


@often
@given(BYTES, FORMATS)
def test_sentences(data, text):
    kind = parse_format(text)
    sentences = list(read_sentences(io.BytesIO(data), kind, "file"))
    kept = "".join("".join(sentence.lines) for sentence in sentences)
    assert kept.encode("utf-8", "surrogateescape") == data
    place = kind.place("form")
    for sentence in sentences:
        if sentence.problem is not None:
            line = re.match(r"file:(\d+): .", sentence.problem)
            assert line, sentence.problem
            assert sentence.first_line <= int(line[1]) < sentence.first_line + len(sentence.lines)
            assert not sentence.rows
        words = sentence.column(place) if sentence.rows else []
        assert all(words)
        assert sentence.replaced({place: words}, kind.separator) == "".join(sentence.lines)
    changed = "".join(s.replaced({place: ["x"] * len(s.rows)}, kind.separator) for s in sentences)
    again = list(read_sentences(io.BytesIO(changed.encode("utf-8", "surrogateescape")), kind, "file"))
    for old, new in zip(sentences, again, strict=True):
        assert len(old.rows) == len(new.rows)
        assert not old.rows or new.column(place) == ["x"] * len(new.rows)
        assert [line for n, line in enumerate(old.lines) if n not in old.rows] == [
            line for n, line in enumerate(new.lines) if n not in new.rows
        ]


@often
@given(TAGS)
def test_spans(tags):
    spans = spans_of(tags)
    detect_scheme([tags])
    for scheme in SCHEMES:
        misplaced(tags, scheme)
        if all(span.label and "-" not in span.label for span in spans):
            written = tags_of(spans, len(tags), scheme)
            assert spans_of(written) == spans
            assert not misplaced(written, scheme)


@often
@given(st.text(max_size=80), st.sets(st.sampled_from(["n't", "'s", "-", "don't", "well-known", "’s"])))
def test_plain_text_loses_nothing_but_white_space(text, known):
    sentences = split_text(text, known)
    assert "".join("".join(words) for words in sentences) == "".join(text.split())
    assert all(words and all(words) for words in sentences)


@often
@given(
    BYTES
    | st.lists(st.sampled_from(["a 1 2\n", "2 2\n", "b 1 nan\n", "c 1\n", "d e 3 4\r\n", "\n"])).map(
        lambda x: "".join(x).encode()
    )
)
def test_vectors(data):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        message = ""
        try:
            vectors = read_vectors(Path(file.name), 5)
            assert len(vectors.table) == len(vectors.numbers) + 1 <= 6
        except DataError as error:
            message = str(error)
        assert not message or re.match(rf"{re.escape(file.name)}(:\d+)?: .", message)


if __name__ == "__main__":
    for test in (test_sentences, test_spans, test_plain_text_loses_nothing_but_white_space, test_vectors):
        test()
        print(f"{test.__name__}: {INPUTS} inputs", flush=True)
