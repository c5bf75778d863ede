"""Files of sentences."""

import sys
from collections.abc import Iterator

from unspool.data.columns import ColumnFormat, Sentence, check, read_sentences
from unspool.files import open_lines


def sentences_of(source: str, kind: ColumnFormat) -> Iterator[Sentence]:
    """All sentences of a file, malformed ones among them."""
    return read_sentences(open_lines(source), kind, "standard input" if source == "-" else source)


def sound_sentences(source: str, kind: ColumnFormat, skip_bad: bool = False) -> Iterator[Sentence]:
    """Sentences with words; malformed ones are an error, or are left out and counted.

    Raises:
        DataError: a line is malformed; the message names it.
    """
    skipped = 0
    for sentence in sentences_of(source, kind):
        if sentence.problem and skip_bad:
            skipped += 1
        elif check(sentence).rows:
            yield sentence
    if skipped:
        print(f"{source}: {skipped} malformed sentences were left out.", file=sys.stderr)
