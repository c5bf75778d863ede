"""Word vectors from elsewhere: the text formats of fastText (``.vec``) and GloVe (``.txt``)."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unspool.errors import DataError
from unspool.files import read_lines


class WordVectors(NamedTuple):
    """Vectors of words.

    numbers: the row of each word.
    table: [V, D]; the last row, zeros, is that of words that have none.
    """

    numbers: dict[str, int]
    table: np.ndarray

    def row(self, word: str) -> int:
        """The row of a word, as it is written or in lower case."""
        return self.numbers.get(word, self.numbers.get(word.lower(), -1))

    def save(self, path: Path) -> None:
        """Writes the table to a ``.npy`` file, and the words beside it."""
        np.save(path, self.table)
        path.with_suffix(".json").write_text(json.dumps(list(self.numbers), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "WordVectors":
        """What `save` wrote; the table is mapped from disk.

        Raises:
            OSError, ValueError, EOFError: the files are missing or damaged.
        """
        words = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        table = np.load(path, mmap_mode="r")
        if table.ndim != 2 or len(table) != len(words) + 1:
            raise ValueError(f"an array of {table.shape} for {len(words)} words")
        return cls({word: row for row, word in enumerate(words)}, table)


def read_vectors(path: Path, limit: int) -> WordVectors:
    """The first `limit` words of a file, which are its commonest.

    Raises:
        DataError: a line has another number of values, or what is none; the message names it.
    """
    numbers: dict[str, int] = {}
    rows: list[np.ndarray] = []
    size = 0
    for number, line in enumerate(read_lines(str(path)), start=1):
        parts = line.rstrip(" ").split(" ")
        if number == 1 and len(parts) == 2 and all(part.isdecimal() and len(part) < 10 for part in parts):
            size = int(parts[1])  # fastText's first line: words and values of each
            continue
        size = size or len(parts) - 1
        word = " ".join(parts[:-size])  # GloVe has words that hold spaces
        try:
            if len(parts) <= size or size < 1:
                raise ValueError
            row = np.array(parts[-size:], dtype=np.float32)
            with np.errstate(over="ignore"):
                row = row.astype(np.float16)
            if not np.isfinite(row).all():
                raise ValueError
        except ValueError:
            raise DataError(
                f"{path}:{number}: expected a word and {size or 'some'} numbers up to 65,504, got {line[:40]!r}."
            ) from None
        if word not in numbers:
            numbers[word] = len(rows)
            rows.append(row)
        if len(rows) == limit:
            break
    if not rows:
        raise DataError(f"{path}: no vectors; expected lines of a word and its numbers.")
    return WordVectors(numbers, np.stack([*rows, np.zeros(size, np.float16)]))
