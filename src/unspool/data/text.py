"""Text sources: a file, a folder of files, standard input, or the text that comes with Python, read piece by piece."""

import codecs
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from unspool.errors import DataError
from unspool.files import standard_input

BUILTIN = "builtin:pydoc"
"""Name of the corpus that needs no file: the texts of Python's `pydoc_data.topics`, about 465,000 characters."""

_BLOCK = 1 << 20  # bytes read at once


class TextSource(ABC):
    """A text that can be read again and again without ever being held whole."""

    @abstractmethod
    def pieces(self) -> Iterator[str]:
        """The text in order, in pieces that end before a line break or space where there is one.

        Raises:
            DataError: the text is empty or not UTF-8; the message names the file and the byte.
        """

    def count_characters(self) -> int:
        """Number of characters of the whole text."""
        return sum(map(len, self.pieces()))

    def between(self, first: int, last: int) -> "TextSource":
        """The characters first..last as a source of its own."""
        return _Slice(self, first, last)


class Lines(TextSource):
    """Lines as a text to learn a vocabulary from.

    Args:
        lines: without their ends.
    """

    def __init__(self, lines: Sequence[str]):
        self.lines = lines

    def pieces(self) -> Iterator[str]:
        """Each line."""
        return iter(self.lines)


def open_text(name: str) -> TextSource:
    """A source from what a user named.

    Args:
        name: a file, a folder (all its files that are not hidden, in order of their names), ``-`` for standard input,
            or ``builtin:pydoc``.

    Raises:
        DataError: there is no such file, or the folder holds no file.
    """
    if name == BUILTIN:
        return _Builtin()
    if name == "-":
        return _StandardInput()
    path = Path(name)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
        if not any(p.stat().st_size for p in files):
            raise DataError(f"{name}: the folder holds no text; give a folder with UTF-8 text files.")
        return _Files([p for p in files if p.stat().st_size])
    if not path.exists():
        raise DataError(f"{name}: no such file or folder.")
    if not path.is_file():
        raise DataError(f"{name}: neither a file nor a folder.")
    if not path.stat().st_size:
        raise DataError(f"{name}: the file is empty; a language model needs text.")
    return _Files([path])


class _Files(TextSource):
    def __init__(self, paths: list[Path]):
        self.paths = paths

    def pieces(self) -> Iterator[str]:
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    yield from _decode(file, str(path))
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


class _Builtin(TextSource):
    def pieces(self) -> Iterator[str]:
        from pydoc_data.topics import topics

        for number, text in enumerate(topics.values()):
            yield text if number == 0 else "\n" + text


class _StandardInput(TextSource):
    """Standard input copied to a temporary file, since a corpus is read more than once."""

    def __init__(self) -> None:
        self._copy: BinaryIO | None = None

    def pieces(self) -> Iterator[str]:
        if self._copy is None:
            piped = standard_input()
            self._copy = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the source
            while block := piped.read(_BLOCK):
                self._copy.write(block)
        if not self._copy.tell() and not self._copy.seek(0, 2):
            raise DataError("standard input: empty; a language model needs text.")
        self._copy.seek(0)
        yield from _decode(self._copy, "standard input")

    def __del__(self) -> None:
        if self._copy is not None:
            self._copy.close()


class _Slice(TextSource):
    def __init__(self, source: TextSource, first: int, last: int):
        self.source, self.first, self.last = source, first, last

    def pieces(self) -> Iterator[str]:
        position = 0
        for piece in self.source.pieces():
            if position >= self.last:
                return
            part = piece[max(0, self.first - position) : self.last - position]
            position += len(piece)
            if part:
                yield part


def _decode(file: BinaryIO, name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, offset = "", 0
    while True:
        block = file.read(_BLOCK)
        pending = len(decoder.getstate()[0])
        try:
            text = rest + decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            place = offset - pending + error.start
            raise DataError(
                f"{name}: not UTF-8 at byte {place} (0x{error.object[error.start]:02x}); convert the file to UTF-8."
            ) from error
        offset += len(block)
        if not block:
            if text:
                yield text
            return
        cut = max(text.rfind("\n"), text.rfind(" "))
        cut = cut if cut > 0 else len(text)
        rest = text[cut:]
        if text[:cut]:
            yield text[:cut]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
