"""Files of the user's: reading them line by line, plain or packed or from standard input, and writing them whole."""

import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from unspool.errors import DataError

T = TypeVar("T")


def standard_input() -> BinaryIO:
    """What is piped in.

    Raises:
        DataError: it is closed.
    """
    if sys.stdin is None:
        raise DataError("standard input is closed; name a file, or give it something to read.")
    return sys.stdin.buffer


def open_lines(source: str) -> Iterator[bytes]:
    """The lines of a file, unpacked where it is ``.gz``, or of standard input (``-``).

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    if source == "-":
        yield from standard_input()
        return
    path = Path(source)
    if not path.exists() or path.is_dir():
        raise DataError(f"{source}: no such file.")
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source}: cannot be read ({error}).") from error


def read_lines(source: str) -> Iterator[str]:
    """The lines of a text file, without their ends.

    Raises:
        DataError: the file is missing, cannot be read or is not UTF-8.
    """
    name = "standard input" if source == "-" else source
    for number, line in enumerate(open_lines(source), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}:{number}: not UTF-8 (byte {error.start + 1} of the line).") from None
        yield text.rstrip("\r\n")


def write_whole(path: Path, pieces: Iterator[bytes]) -> None:
    """Writes a file beside its place and puts it there when it is whole, so that it may be the one that is read.

    What is named ``.gz`` is packed.

    Raises:
        OSError: it cannot be written; what was there before is kept.
    """
    if path.exists() and not path.is_file():  # a pipe or device, which holds nothing that could be kept
        with path.open("wb") as file:
            file.writelines(pieces)
        return
    path = path.resolve()
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with beside.open("xb") as file:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    packed.writelines(pieces)
            else:
                file.writelines(pieces)
        if path.exists():
            beside.chmod(path.stat().st_mode)
        flush(beside)
        beside.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def in_portions(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Lists of so many items, the last one shorter."""
    while portion := list(islice(items, size)):
        yield portion


def flush(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
