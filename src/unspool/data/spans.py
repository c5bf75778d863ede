"""Spans (chunks, named entities) from tags and back, in IOB1, BIO and BIOES, by the rules of conlleval."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from unspool.errors import DataError

SCHEMES = ("bio", "iob1", "bioes")


class Span(NamedTuple):
    """The words first..last (the last one included) and what they are."""

    first: int
    last: int
    label: str


def split_tag(tag: str) -> tuple[str, str]:
    """``B-PER`` as ``("B", "PER")``; a tag that is none of B I E S O with a label is a label of its own kind."""
    mark, _, label = tag.partition("-")
    return (mark, label) if label and mark in ("B", "I", "E", "S") else ("O", "") if tag == "O" else ("", tag)


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str | None:
    """The scheme that contradicts the fewest of the tags; None where they are not those of spans."""
    pairs = Counter(pair for tags in sentences for pair in pairwise((None, *tags, None)))
    tags = {tag for pair in pairs for tag in pair if tag is not None}
    if tags <= {"O"} or not all(split_tag(tag)[0] for tag in tags):
        return None
    wrong = {scheme: sum(n for pair, n in pairs.items() if not may_follow(*pair, scheme)) for scheme in SCHEMES}
    return min(SCHEMES, key=lambda scheme: wrong[scheme])


def stray_tags(sentences: Iterable[Sequence[str]]) -> list[str]:
    """What keeps a column from being one of spans where most of its tags are such; empty where few are, or all."""
    counts = Counter(tag for tags in sentences for tag in tags)
    stray = [tag for tag in counts if not split_tag(tag)[0]]
    inside = sum(n for tag, n in counts.items() if split_tag(tag)[0] not in ("", "O"))
    return sorted(stray) if inside > sum(counts[tag] for tag in stray) else []


def misplaced(tags: Sequence[str], scheme: str) -> list[int]:
    """Places of tags that may not come after the one before; the number of tags where the sentence may not end."""
    return [place for place, pair in enumerate(pairwise((None, *tags, None))) if not may_follow(*pair, scheme)]


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The spans of a sentence, in any of the schemes; where tags contradict each other, as conlleval reads them."""
    found: list[Span] = []
    before, first = ("O", ""), 0
    for place, tag in enumerate([*tags, "O"]):
        now = split_tag(tag)
        if before[0] != "O" and _parts(before, now):
            found.append(Span(first, place - 1, before[1]))
        if now[0] != "O" and (before[0] == "O" or _parts(before, now)):
            first = place
        before = now
    return found


def tags_of(spans: Iterable[Span], length: int, scheme: str) -> list[str]:
    """The tags of a sentence of so many words.

    Raises:
        DataError: spans overlap or lie outside.
    """
    tags, last = ["O"] * length, Span(-2, -2, "")
    for span in sorted(spans):
        if span.first <= last.last or not 0 <= span.first <= span.last < length:
            raise DataError(f"span {tuple(span)} overlaps another or lies outside of {length} words.")
        touches = span.first == last.last + 1 and span.label == last.label
        for place in range(span.first, span.last + 1):
            tags[place] = f"I-{span.label}"
        if scheme != "iob1" or touches:
            tags[span.first] = f"B-{span.label}"
        if scheme == "bioes":
            tags[span.last] = f"{'S' if span.first == span.last else 'E'}-{span.label}"
        last = span
    return tags


def may_follow(before: str | None, tag: str | None, scheme: str) -> bool:
    """Whether a tag may come after another; None stands for the sentence's beginning and its end."""
    (mark, label), (next_mark, next_label) = (split_tag(t or "O") for t in (before, tag))
    if scheme != "bioes" and next_mark in ("E", "S"):
        return False
    if scheme == "iob1":
        return next_mark != "B" or (mark != "O" and label == next_label)
    inside = mark in "BI" and bool(mark)
    if scheme == "bioes" and inside:
        return next_mark in ("I", "E") and label == next_label
    return next_mark not in ("I", "E") or (inside and label == next_label)


def _parts(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether a span ends between two tags, the first of which is in one."""
    return now[0] in ("O", "B", "S") or before[0] in ("E", "S") or before[1] != now[1]
