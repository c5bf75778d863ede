"""Lists of recordings with what is said in them: JSON lines, tables, Kaldi folders, and features computed elsewhere."""

import csv
import json
import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from unspool.data.audio import read_audio
from unspool.errors import DataError
from unspool.files import read_lines
from unspool.tasks.speech.features import FeatureSettings, add_deltas


class Utterance(NamedTuple):
    """One recording, or a part of one, and its text.

    where: file and line that name it.  name: for people.  text: what is said.  path: of the sound, or of the features.
    begin, end: the part in seconds; end None: to the end.  key: of features within their file; empty for sound.
    """

    where: str
    name: str
    text: str
    path: Path
    begin: float = 0.0
    end: float | None = None
    key: str = ""

    def read(self, settings: FeatureSettings) -> np.ndarray:
        """Samples [N], or features [T, F], float32.

        Raises:
            DataError: it cannot be read; says where it is named.
        """
        try:
            if not self.key:
                return read_audio(self.path, settings.sample_rate, self.begin, self.end)
            return add_deltas(_features(self.path, self.key), settings.deltas)
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from None


def is_list(source: str) -> bool:
    """Whether a name is that of a list of recordings."""
    return Path(source).is_dir() or source.removesuffix(".gz").endswith((".jsonl", ".json", ".tsv", ".csv", ".npz"))


def read_utterances(source: str) -> list[Utterance]:
    """The recordings that a list names; paths are relative to the list's folder.

    Raises:
        DataError: the list is missing or malformed.
    """
    path = Path(source)
    if path.is_dir():
        found = list(_kaldi(path))
    elif source.endswith(".npz"):
        found = list(_arrays(path))
    elif source.removesuffix(".gz").endswith((".jsonl", ".json")):
        found = list(_json_lines(path))
    elif source.removesuffix(".gz").endswith((".tsv", ".csv")):
        found = [_sound(row, where, path.parent) for where, row in _table(path)]
    else:
        raise DataError(f"{source}: expected .jsonl, .tsv, .csv, .npz or a Kaldi folder.")
    if not found:
        raise DataError(f"{source}: names no recordings.")
    return found


def _json_lines(path: Path) -> Iterator[Utterance]:
    for number, line in enumerate(read_lines(str(path)), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error}).") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object with audio_filepath and text.")
        yield _sound(row, where, path.parent)


def _sound(row: dict[str, object], where: str, folder: Path) -> Utterance:
    name, text = row.get("audio_filepath", row.get("path")), row.get("text")
    if not isinstance(name, str) or not name or not isinstance(text, str) or re.search("[\ud800-\udfff]", name + text):
        found = ", ".join(f"{key} ({type(value).__name__})" for key, value in row.items()) or "nothing"
        raise DataError(f"{where}: expected audio_filepath and text, both as Unicode text; found {found}.")
    begin, length = (_seconds(row.get(key), where, key) for key in ("offset", "duration"))
    # a duration beside an offset cuts a part out; alone it is what somebody has measured
    end = begin + length if begin is not None and length is not None else None
    return Utterance(where, name, text, folder / name, begin or 0.0, end)


def _seconds(value: object, where: str, key: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise DataError(f"{where}: {key} must be seconds, at least 0, got {value!r}.")
    return seconds


def _table(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    is_csv = str(path).removesuffix(".gz").endswith(".csv")
    head: list[str] = []
    for number, line in enumerate(read_lines(str(path)), start=1):
        try:
            row = next(csv.reader([line], strict=True), []) if is_csv else line.split("\t")
        except csv.Error as error:
            raise DataError(f"{path}:{number}: a row must be one line with its quotes closed ({error}).") from None
        if not head:
            head = [name.strip() for name in row]
            if len(set(head)) < len(head):
                raise DataError(f"{path}:{number}: two columns have the same name.")
        elif any(row) and len(row) != len(head):
            raise DataError(f"{path}:{number}: {len(row)} columns, the first line names {len(head)}.")
        elif any(row):
            yield f"{path}:{number}", dict(zip(head, row, strict=True))


def _arrays(path: Path) -> Iterator[Utterance]:
    known = set(_npz(path).files)
    table = path.with_suffix(".tsv")
    if not table.exists():
        raise DataError(f"{path}: expected {table.name} beside it, with the columns utterance and text.")
    for where, row in _table(table):
        name, text = row.get("utterance"), row.get("text")
        if not isinstance(name, str) or not isinstance(text, str):
            raise DataError(f"{where}: expected the columns utterance and text, found {', '.join(row)}.")
        if name not in known:
            raise DataError(f"{where}: {path.name} has no features of {name!r}.")
        yield Utterance(where, name, text, path, key=name)


def _kaldi(folder: Path) -> Iterator[Utterance]:
    """wav.scp (recording, path), text (utterance, words), segments (utterance, recording, begin, end) where there are."""

    def pairs(name: str) -> dict[str, tuple[str, str]]:
        found = {}
        for number, line in enumerate(read_lines(str(folder / name)), start=1):
            key, *rest = line.split(None, 1) or [""]
            if key in found:
                raise DataError(f"{folder / name}:{number}: {key} stands here a second time.")
            if key:
                found[key] = f"{folder / name}:{number}", "".join(rest).strip()
        return found

    recordings, texts = pairs("wav.scp"), pairs("text")
    for key, (where, path) in recordings.items():
        if path.endswith("|"):
            raise DataError(f"{where}: {key} is a command, which is not run; write a sound file and name that.")
    other = "segments" if (folder / "segments").exists() else "wav.scp"
    parts = pairs("segments") if other == "segments" else recordings
    for key in texts.keys() ^ parts.keys():
        where, _ = texts.get(key) or parts[key]
        raise DataError(f"{where}: {key!r} must be in text and in {other}, and is in one of them.")
    for key, (where, rest) in parts.items():
        fields = rest.split()
        if parts is recordings:
            yield Utterance(texts[key][0], key, texts[key][1], folder / rest)
            continue
        if len(fields) != 3 or fields[0] not in recordings:
            raise DataError(f"{where}: expected utterance, recording, begin and end, known to wav.scp.")
        begin, end = (_seconds(value, where, name) for value, name in zip(fields[1:], ("begin", "end"), strict=True))
        yield Utterance(where, key, texts[key][1], folder / recordings[fields[0]][1], begin or 0.0, end)


def _npz(path: Path) -> "np.lib.npyio.NpzFile":
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    return _open_npz(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _open_npz(path: Path, changed: int) -> "np.lib.npyio.NpzFile":
    try:
        return np.lib.npyio.NpzFile(path, allow_pickle=False)  # type: ignore[arg-type]
    except (OSError, ValueError, EOFError, BadZipFile):
        raise DataError(f"{path}: is no .npz file that can be read.") from None


def _features(path: Path, key: str) -> np.ndarray:
    try:
        frames = _npz(path)[key]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: {key} cannot be read ({error}).") from None
    if frames.ndim != 2 or not frames.size or frames.dtype.kind not in "fiu":
        found = f"{list(frames.shape)} of {frames.dtype}"
        raise DataError(f"{path}: {key} must be [frames, features] of real numbers, at least one, got {found}.")
    if not (np.abs(frames) < 1e9).all():
        raise DataError(f"{path}: {key} has features that are no numbers, or beyond all reason.")
    return np.asarray(frames, np.float32)
