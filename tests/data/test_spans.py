import random

import pytest

from unspool.data.spans import Span, detect_scheme, may_follow, spans_of, tags_of
from unspool.errors import DataError

EXAMPLE = [Span(0, 0, "PER"), Span(1, 2, "PER"), Span(4, 6, "LOC")]
WRITTEN = {
    "bio": "B-PER B-PER I-PER O B-LOC I-LOC I-LOC",
    "iob1": "I-PER B-PER I-PER O I-LOC I-LOC I-LOC",
    "bioes": "S-PER B-PER E-PER O B-LOC I-LOC E-LOC",
}


@pytest.mark.parametrize("scheme", WRITTEN)
def test_spans_are_written_and_read_in_every_scheme(scheme):
    tags = WRITTEN[scheme].split()
    assert tags_of(EXAMPLE, 7, scheme) == tags
    assert spans_of(tags) == EXAMPLE
    assert detect_scheme([tags]) == scheme


def test_tags_that_contradict_each_other_are_read_as_conlleval_does():
    assert spans_of(["O", "I-A", "I-B", "I-B", "B-B", "O", "E-A", "I-A"]) == [
        Span(1, 1, "A"), Span(2, 3, "B"), Span(4, 4, "B"), Span(6, 6, "A"), Span(7, 7, "A"),
    ]  # fmt: skip
    assert detect_scheme([["NOUN", "VERB"]]) is None
    assert detect_scheme([["O"]]) is None


def test_overlapping_spans_are_refused():
    with pytest.raises(DataError, match="overlaps another"):
        tags_of([Span(0, 2, "A"), Span(2, 3, "B")], 5, "bio")


@pytest.mark.parametrize("scheme", WRITTEN)
def test_whatever_may_follow_can_be_read_and_written_again(scheme):
    chance = random.Random(0)
    marks = "BIES" if scheme == "bioes" else "BI"
    every = ["O", *(f"{m}-{label}" for m in marks for label in "AB")]
    for _ in range(500):
        tags, before = [], None
        for _ in range(8):
            before = chance.choice([t for t in every if may_follow(before, t, scheme)])
            tags.append(before)
        while not may_follow(tags[-1], None, scheme):
            tags.append(chance.choice([t for t in every if may_follow(tags[-1], t, scheme)]))
        assert tags_of(spans_of(tags), len(tags), scheme) == tags
