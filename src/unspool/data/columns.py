"""Sentences in columns, one word a line: CoNLL-U, CoNLL-2000 and 2003, any columns; every line is kept as it was.

CoNLL-U (universaldependencies.org/format.html): ten columns between tabs; comments, multi-word tokens ``1-2`` and empty
nodes ``8.1`` are lines of a sentence that are no words.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from unspool.errors import ConfigError, DataError, did_you_mean

_CONLLU_COLUMNS = {"id": 0, "form": 1, "lemma": 2, "upos": 3, "xpos": 4, "feats": 5}
_WORD_ID, _OTHER_ID = re.compile(r"[1-9]\d*"), re.compile(r"[1-9]\d*-[1-9]\d*|\d+\.[1-9]\d*")
_DOCUMENT = "-DOCSTART-"  # a line of CoNLL-2003 that begins a document and is no word


@dataclass(frozen=True)
class ColumnFormat:
    """How a file keeps its columns.

    Attributes:
        columns: places of columns by name, from 0; ``form`` is the word.
        separator: between columns; None for any white space.
        is_conllu: its rules are checked: ten columns, ids in order.
    """

    columns: Mapping[str, int]
    separator: str | None
    is_conllu: bool

    def place(self, name: str) -> int:
        """The place of a column.

        Raises:
            ConfigError: there is none of this name.
        """
        if name not in self.columns:
            hint = did_you_mean(name, self.columns)
            raise ConfigError(f"the files have no column {name!r}{hint}; they have {', '.join(self.columns)}.")
        return self.columns[name]

    def words_alone(self) -> "ColumnFormat":
        """The same, for files that need hold nothing but words."""
        return self if self.is_conllu else replace(self, columns={"form": self.place("form")})


CONLLU = ColumnFormat(_CONLLU_COLUMNS, "\t", True)


def parse_format(text: str) -> ColumnFormat:
    """A format from what a user wrote: ``conllu``, or columns such as ``form=0,pos=1,chunk=2``, with ``,tab`` for tabs.

    Raises:
        ConfigError: neither.
    """
    if text == "conllu":
        return CONLLU
    parts = [part.strip() for part in text.split(",")]
    named = [part.partition("=") for part in parts if part != "tab"]
    if not all(name and place.isdecimal() and len(place) < 6 for name, _, place in named) or "form" not in {
        name for name, _, _ in named
    }:
        raise ConfigError(f"format must be conllu, or columns such as form=0,pos=1 (and tab), got {text!r}.")
    if min(len({name for name, _, _ in named}), len({int(place) for _, _, place in named})) < len(named):
        raise ConfigError(f"format must name every column once, and no place twice, got {text!r}.")
    return ColumnFormat({name: int(place) for name, _, place in named}, "\t" if "tab" in parts else None, False)


@dataclass(frozen=True)
class Sentence:
    """Some lines of a file, up to and with the blank one that ends a sentence.

    Attributes:
        lines: as they were, each with its end.
        rows: places of the words among the lines.
        cells: the columns of each word.
        first_line: number of the first line in the file, from 1.
        problem: what is wrong with it, with file and line, or None; then it has no rows.
    """

    lines: Sequence[str]
    rows: Sequence[int]
    cells: Sequence[Sequence[str]]
    first_line: int
    problem: str | None = None

    def column(self, place: int) -> list[str]:
        """One column of all words."""
        return [cells[place] for cells in self.cells]

    def replaced(self, columns: Mapping[int, Sequence[str]], separator: str | None) -> str:
        """The text of the sentence with some columns of its words set anew, and nothing else changed."""
        lines = list(self.lines)
        for word, row in enumerate(self.rows):
            body = lines[row].rstrip("\r\n" if separator else None)
            mark = "\ufeff" if self.first_line + row == 1 and body.startswith("\ufeff") else ""
            body = body.removeprefix(mark)
            # every second piece is a cell, those between are what separates them
            pieces = re.split("(\t)" if separator else r"(\s+)", body)
            first = 2 if not separator and not pieces[0] else 0  # white space at the beginning of the line
            for place, values in columns.items():
                while len(pieces) <= first + 2 * place:
                    pieces += [separator or " ", "_"]  # columns that the file does not have yet
                pieces[first + 2 * place] = values[word]
            lines[row] = mark + "".join(pieces) + lines[row][len(mark) + len(body) :]
        return "".join(lines)


def read_sentences(lines: Iterable[bytes], kind: ColumnFormat, where: str) -> Iterator[Sentence]:
    """The sentences of a file, one after the other; together their lines are the whole file.

    Args:
        lines: of the file, each with its end.
        kind: its format.
        where: its name, for messages.
    """
    kept: list[str] = []
    begin, problem, has_word = 1, "", False
    for number, raw in enumerate(lines, start=1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = raw.decode("utf-8", errors="surrogateescape")
            problem = problem or f"{where}:{number}: not UTF-8 (byte {error.start + 1} of the line)"
        kept.append(line)
        if line.strip():
            has_word = has_word or not (kind.is_conllu and line.startswith("#"))
        elif has_word:
            yield _sentence(kept, kind, where, begin, problem)
            kept, begin, problem, has_word = [], number + 1, "", False
    if kept:
        yield _sentence(kept, kind, where, begin, problem)


def blank_sentence(words: Sequence[str], kind: ColumnFormat) -> Sentence:
    """Words as a sentence of a file in which nothing else is known (``_``)."""
    width = 10 if kind.is_conllu else max(kind.columns.values()) + 1
    cells = [["_"] * width for _ in words]
    for number, (word, own) in enumerate(zip(words, cells, strict=True), start=1):
        own[kind.place("form")] = word
        if kind.is_conllu:
            own[kind.place("id")] = str(number)
    lines = [(kind.separator or " ").join(own) + "\n" for own in cells]
    return Sentence([*lines, "\n"], range(len(words)), cells, 1)


def check(sentence: Sentence) -> Sentence:
    """The sentence, if nothing is wrong with it.

    Raises:
        DataError: something is; the message names file and line.
    """
    if sentence.problem is not None:
        raise DataError(sentence.problem)
    return sentence


def _sentence(lines: list[str], kind: ColumnFormat, where: str, begin: int, problem: str) -> Sentence:
    rows: list[int] = []
    cells: list[list[str]] = []
    for place, line in enumerate(lines):
        body = line.rstrip("\r\n")
        body = body.removeprefix("\ufeff") if begin + place == 1 else body
        if problem or not body.strip() or (kind.is_conllu and body.startswith("#")):
            continue
        columns = body.split(kind.separator)
        if "\r" in body:
            problem = f"{where}:{begin + place}: a carriage return within the line; lines end with LF or CR LF"
            continue
        wrong, is_word = _check_line(columns, kind, len(cells))
        if wrong:
            problem = f"{where}:{begin + place}: {wrong}"
        elif is_word:
            rows.append(place)
            cells.append(columns)
    return Sentence(lines, () if problem else rows, () if problem else cells, begin, problem or None)


def _check_line(columns: list[str], kind: ColumnFormat, words: int) -> tuple[str, bool]:
    """What is wrong with a line, and whether it is a word."""
    if not kind.is_conllu:
        if columns[0] == _DOCUMENT:
            return "", False
        wanted = max(kind.columns.values()) + 1
        if len(columns) < wanted:
            return f"{len(columns)} columns, expected at least {wanted}", False
        empty = [name for name, place in kind.columns.items() if not columns[place]]
        return (f"column {kind.place(empty[0]) + 1} ({empty[0]}) is empty" if empty else ""), not empty
    if len(columns) != 10:
        return f"{len(columns)} columns, expected 10; is a tab missing?", False
    if "" in columns:
        return f"column {columns.index('') + 1} is empty; what is not known is written _", False
    if _OTHER_ID.fullmatch(columns[0]):
        return "", False
    if not _WORD_ID.fullmatch(columns[0]):
        return f"id {columns[0][:20]!r} is no number, range (1-2) or empty node (8.1)", False
    if columns[0] != str(words + 1):
        return f"id {columns[0][:20]}, expected {words + 1}; is a line or a blank line missing?", False
    return "", True
