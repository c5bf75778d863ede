"""Subtitles from words with times: SubRip (.srt) and WebVTT (https://www.w3.org/TR/webvtt1/)."""

import html
from collections.abc import Iterator, Sequence

from unspool.tasks.speech.alphabet import Transcript, Word

FORMATS = ("text", "json", "srt", "vtt")
_LETTERS, _SECONDS, _PAUSE = 42, 6.0, 0.8  # of a cue, at most; a longer pause ends one


def subtitles(parts: Sequence[Transcript], form: str) -> str:
    """All of a file's cues."""
    mark = "," if form == "srt" else "."
    text = "" if form == "srt" else "WEBVTT\n\n"
    for number, words in enumerate(_cues([word for part in parts for word in part.words]), start=1):
        times = f"{_clock(words[0].begin, mark)} --> {_clock(words[-1].end, mark)}"
        said = " ".join(word.text for word in words)
        text += f"{number}\n{times}\n{said if form == 'srt' else html.escape(said, quote=False)}\n\n"
    return text


def _cues(words: Sequence[Word]) -> Iterator[list[Word]]:
    cue: list[Word] = []
    for word in words:
        letters = sum(len(one.text) + 1 for one in cue) + len(word.text)
        if cue and (letters > _LETTERS or word.end - cue[0].begin > _SECONDS or word.begin - cue[-1].end > _PAUSE):
            yield cue
            cue = []
        cue.append(word)
    if cue:
        yield cue


def _clock(seconds: float, mark: str) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"
