"""A trained recogniser as a user holds it: files and streams to text, words with times, and subtitles."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unspool.config import require
from unspool.data.audio import Samples, raw_samples, read_audio, resample
from unspool.errors import ConfigError, DataError
from unspool.files import standard_input
from unspool.tasks.speech.alphabet import Transcript, join
from unspool.tasks.speech.features import FeatureSettings, add_deltas
from unspool.tasks.speech.listening import Listening
from unspool.tasks.speech.manifest import is_list, read_utterances
from unspool.tasks.speech.recordings import make_batch
from unspool.tasks.speech.stream import SpeechStream
from unspool.tasks.speech.subtitles import FORMATS, subtitles
from unspool.tasks.speech.task import Speech

_PIECE = 3200  # bytes of raw sound read together: a tenth of a second at 16 kHz


class TrainedRecognizer:
    """A recogniser as a user holds it.

    Attributes:
        task: its settings, features and alphabet.
        model: the network, in evaluation mode.
    """

    def __init__(self, task: Speech, model: Any):
        self.task, self.model = task, model.eval()

    def transcribe(
        self, sound: str | Path | np.ndarray, rate: int | None = None, listening: Listening = Listening()
    ) -> Transcript:
        """What is said in a file, in samples [N] with their rate, or in features [T, F].

        A model of one direction hears samples as a stream does, with its state carried through any length. One of both
        directions hears longer sound in pieces, cut where it is quietest.

        Raises:
            DataError: the file cannot be read, or holds too little.
            ConfigError: samples without a rate.
        """
        return join(self._parts(self._samples(sound, rate), self.task.searches(listening), listening))

    def stream(self, rate: int | None = None, listening: Listening = Listening()) -> SpeechStream:
        """An open stream of samples at a rate, the model's own by default.

        Raises:
            ConfigError: the model is bidirectional, or normalizes by utterance.
        """
        return self._stream(self.task.searches(listening), rate or self.task.features.sample_rate, listening)

    def predict(
        self,
        sources: Sequence[str],
        form: str = "text",
        listening: Listening = Listening(),
        raw_rate: int = 0,
        skip_bad: bool = False,
    ) -> Iterator[str]:
        """The text of each file, one after the other; ``-`` is raw sound on standard input, written down as it comes.

        Args:
            sources: sound files; or lists of recordings (.jsonl, .tsv, .csv, .npz, Kaldi folders), whose texts are not read.
            form: text, json, srt or vtt.
            listening: how to search.
            raw_rate: samples a second of raw sound, 16 bits each, signed, low byte first; 0: the model's own.
            skip_bad: leave out what cannot be read, and name it.

        Raises:
            ConfigError: the form is not known, or several files for subtitles.
            DataError: a file cannot be read.
        """
        require(form in FORMATS, "format", form, f"one of {', '.join(FORMATS)}")
        if form in ("srt", "vtt") and (len(sources) > 1 or is_list(sources[0])):
            raise ConfigError(f"format {form} is of one file; name one sound file.")
        return self._texts(sources, form, listening, raw_rate, skip_bad)

    def evaluate(self, data: str, listening: Listening = Listening()) -> dict[str, Any]:
        """Error rates on a list of recordings; see `Speech.evaluate`."""
        return self.task.evaluate(self.model, data, listening)

    def _texts(
        self, sources: Sequence[str], form: str, listening: Listening, raw_rate: int, skip_bad: bool
    ) -> Iterator[str]:
        searches = self.task.searches(listening)
        for source in sources:
            if source == "-":
                yield from self._live(searches, raw_rate or self.task.features.sample_rate, listening, form)
                continue
            for name, read in self._signals(source):
                try:
                    parts = self._parts(read(), searches, listening, name)
                except DataError as error:
                    if not skip_bad:
                        raise
                    print(f"left out: {error}", file=sys.stderr)
                    continue
                yield subtitles(parts, form) if form in ("srt", "vtt") else _line(name, join(parts), form)

    def _live(self, searches: Callable[[], Any], rate: int, listening: Listening, form: str) -> Iterator[str]:
        piped = standard_input().fileno()
        stream = self._stream(searches, rate, listening)
        pieces = iter(lambda: os.read(piped, _PIECE), b"")

        def parts() -> Iterator[Transcript]:
            for samples in raw_samples(pieces):
                yield from stream.feed(samples)
            yield from stream.finish()

        if form in ("srt", "vtt"):
            yield subtitles(list(parts()), form)
        else:
            yield from (_line("-", part, form) for part in parts() if part.text or form == "json")

    def _signals(self, source: str) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        if is_list(source):
            for one in read_utterances(source):
                yield one.name, lambda one=one: one.read(self.task.features)  # type: ignore[misc]
        else:
            yield source, lambda: self._samples(source, None)

    def _samples(self, sound: str | Path | np.ndarray, rate: int | None) -> np.ndarray:
        if isinstance(sound, (str, Path)):
            return read_audio(Path(sound), self.task.features.sample_rate)
        if sound.ndim == 2:
            return add_deltas(np.asarray(sound, np.float32), self.task.features.deltas)
        if not rate or rate < 1:
            raise ConfigError("samples need their rate, in samples a second.")
        if not np.isfinite(sound).all():
            raise DataError("there are samples that are no numbers.")
        return resample(np.asarray(sound, np.float32), rate, self.task.features.sample_rate)

    def _parts(
        self, signal: np.ndarray, searches: Callable[[], Any], listening: Listening, name: str = "sound"
    ) -> list[Transcript]:
        features = self.task.features
        if signal.ndim == 1 and not self.model.bidirectional and self.task.normalizer.kind != "utterance":
            beginning = signal[: int(features.sample_rate * features.frame_ms / 500)]
            self.task.frames_of(beginning, name)  # refuses too little
            stream = self._stream(searches, features.sample_rate, listening)
            return [*stream.feed(signal), *stream.finish()]
        parts = []
        for begin, piece in _cut(signal, features, self.task.data.longest_seconds):
            frames = self.task.frames_of(piece, name)
            (heard,) = self.task.listen(self.model, make_batch([frames], [[]]), searches)
            moved = [word._replace(begin=word.begin + begin, end=word.end + begin) for word in heard.words]
            parts.append(heard._replace(words=moved))
        return parts

    def _stream(self, searches: Callable[[], Any], rate: int, listening: Listening) -> SpeechStream:
        own, seconds = self.task, listening.endpoint_seconds
        return SpeechStream(self.model, own.features, own.normalizer, own.alphabet, searches, rate, seconds)


def _line(name: str, heard: Transcript, form: str) -> str:
    if form == "text":
        return heard.text + "\n"
    words = [{**word._asdict(), "begin": round(word.begin, 3), "end": round(word.end, 3)} for word in heard.words]
    row = {"file": name, "text": heard.text, "confidence": heard.confidence, "score": heard.score, "words": words}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _cut(signal: np.ndarray, features: FeatureSettings, longest: float) -> Iterator[tuple[float, np.ndarray]]:
    """Pieces of at most `longest` seconds with where they begin; each ends where its second half is quietest."""
    rate = features.sample_rate if signal.ndim == 1 else 1000 / features.shift_ms
    most, at = int(longest * rate), 0
    while len(signal) - at > most:
        half = signal[at + most // 2 : at + most]
        end = at + most // 2 + (_quietest(half, int(0.2 * rate)) if signal.ndim == 1 else len(half))
        yield at / rate, signal[at:end]
        at = end
    yield at / rate, signal[at:]


def _quietest(samples: Samples, width: int) -> int:
    """The middle of the quietest stretch of so many samples."""
    power = np.cumsum(np.concatenate([[0.0], samples.astype(np.float64) ** 2]))
    return int(np.argmin(power[width:] - power[:-width])) + width // 2
