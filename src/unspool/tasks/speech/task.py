"""Speech to text: recordings with what is said in them in, a recogniser out."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from unspool.config import require
from unspool.data import Lines, build_tokenizer, read_tokenizer
from unspool.data.audio import read_audio, speech_package
from unspool.errors import CheckpointError, DataError
from unspool.models.ctc import CTCModel, SpeechBatch, needed_steps
from unspool.search.ctc import GreedySearch
from unspool.tasks.base import BatchSource, Reading, Task
from unspool.tasks.speech.alphabet import Alphabet, Transcript, tidy
from unspool.tasks.speech.features import FeatureSettings, features_of
from unspool.tasks.speech.listening import Listening
from unspool.tasks.speech.manifest import Utterance, read_utterances
from unspool.tasks.speech.recordings import Normalizer, Recordings, SpeechBatches, make_batch
from unspool.tasks.speech.scores import error_rates, worst
from unspool.tasks.speech.settings import RecognizerSettings, SpeechData

_FILE = "speech.json"
_AT_ONCE = 32  # recordings of a list that are measured side by side


class Speech(Task):
    """Hearing what is said in recordings."""

    name = "speech"
    sections = {"data": SpeechData, "features": FeatureSettings, "model": RecognizerSettings}
    unit = "symbols"
    criterion = "character_error_rate"

    def __init__(self, settings: Mapping[str, Any], alphabet: Alphabet, normalizer: Normalizer, folder: Path):
        self.data: SpeechData = settings["data"]
        self.features: FeatureSettings = settings["features"]
        self.model: RecognizerSettings = settings["model"]
        self.alphabet, self.normalizer, self.folder = alphabet, normalizer, folder

    @classmethod
    def prepare(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        data: SpeechData = settings["data"]
        features: FeatureSettings = settings["features"]
        settings["model"].check()
        speech_package("jiwer")  # what is not installed is missed before the work
        noises = sorted(Path(data.noise).iterdir()) if data.noise else []
        require(bool(noises) or not data.noise, "noise", data.noise, "a folder that holds sounds")
        for noise in noises:
            read_audio(noise, features.sample_rate)  # refused before the work
        utterances = read_utterances(data.train)
        dev = read_utterances(data.dev) if data.dev else []
        texts = [tidy(one.text) for one in utterances]
        alphabet = Alphabet(build_tokenizer(data.unit, Lines(texts), data.vocabulary_size))
        (folder / "tokens").mkdir(exist_ok=True)
        reader = _Reader(data, features, settings["model"].stride, alphabet)
        Recordings.write(folder / "tokens" / "train", reader.read(utterances, data.train, True))
        normalizer = reader.normalizer()
        if dev:
            Recordings.write(folder / "tokens" / "dev", reader.read(dev, data.dev, False))
        kept = {"mean": normalizer.mean.tolist(), "deviation": normalizer.deviation.tolist()}
        tokenizer = json.loads(alphabet.tokenizer.to_json())
        text = json.dumps({"tokenizer": tokenizer, **kept}, ensure_ascii=False)
        (folder / _FILE).write_text(text, encoding="utf-8")
        return cls(settings, alphabet, normalizer, folder)

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        path = folder / _FILE
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            alphabet = Alphabet(read_tokenizer(json.dumps(kept["tokenizer"]), str(path)))
            normalizer = Normalizer(settings["features"].normalize, kept["mean"], kept["deviation"])
            if not np.isfinite([normalizer.mean, normalizer.deviation]).all():
                raise ValueError("the mean or the deviation of features is no number")
            return cls(settings, alphabet, normalizer, folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); the model folder is damaged.") from error

    def build_model(self) -> CTCModel:
        size, symbols = len(self.normalizer.mean), len(self.alphabet)
        return CTCModel(size, symbols, self.model.build_cell, **self.model.options)

    def training_batches(self, seed: int) -> BatchSource:
        return self._batches("train", seed)

    def epochs(self, num_batches: int) -> int:
        return max(30, math.ceil(3000 / num_batches))

    def validate(self, model: CTCModel) -> dict[str, float] | None:
        if not self.data.dev:
            return None
        batches = self._batches("dev")
        found: dict[int, str] = {}
        nats, count = 0.0, 0
        with torch.no_grad():
            model.eval()
            for index in range(len(batches)):
                rows, batch = batches.buckets.rows(0, index), batches.batch(0, index)
                loss = model.loss(batch.to(model.output.weight.device))
                nats, count = nats + float(loss.sum), count + loss.count
                heard = self.listen(model, batch, GreedySearch)
                found.update((row, one.text) for row, one in zip(rows, heard, strict=True))
        texts = batches.recordings.texts
        rates = error_rates([texts[row] for row in found], list(found.values()))
        return {**rates, "nats_per_unit": nats / max(1, count)}

    def evaluate(self, model: CTCModel, data: str, listening: Listening = Listening()) -> dict[str, Any]:
        """Word and character error rates on a list of recordings, or on train or validation of the run itself.

        Args:
            model: the recogniser.
            data: a list as for training; or ``train``, ``validation``.
            listening: how to search.

        Raises:
            DataError: the list is missing or malformed, or a recording cannot be read (unless `skip_bad`).
        """
        utterances, signals = self._named(data)
        names, texts, found, seconds, bad = [], [], [], 0.0, []
        begins = self.searches(listening)
        for at in range(0, len(utterances), _AT_ONCE):
            heard = []
            for one in utterances[at : at + _AT_ONCE]:
                try:
                    heard.append((one, self.frames_of(signals(one), f"{one.where}: {one.name}")))
                except DataError as error:
                    if not self.data.skip_bad:
                        raise
                    bad.append(str(error))
            seconds += sum(len(frames) for _, frames in heard) * self.features.shift_ms / 1000
            names += [one.name for one, _ in heard]
            texts += [tidy(one.text) for one, _ in heard]
            if heard:
                batch = make_batch([frames for _, frames in heard], [[]] * len(heard))
                found += [one.text for one in self.listen(model, batch, begins)]
        if not texts:
            raise DataError(f"{data}: none of {len(utterances):,} recordings can be read; the first: {bad[0]}")
        for problem in bad:
            print(f"left out: {problem}", file=sys.stderr)
        return {
            **error_rates(texts, found),
            "num_utterances": len(texts),
            "num_left_out": len(bad),
            "num_words": sum(len(text.split()) for text in texts),
            "seconds": round(seconds, 2),
            "worst": worst(names, texts, found),
        }

    def summary(self, values: dict[str, Any]) -> list[str]:
        lines = super().summary(values)
        for one in values["worst"]:
            lines += ["", f"{one['name']}: {one['errors']} errors", *one["alignment"].splitlines()]
        return lines

    def reading(self, data: str, num_steps: int, num_sequences: int) -> Reading:
        utterances, signals = self._named(data)
        stride = self.model.stride
        frames = [self.frames_of(signals(one), one.name)[: num_steps * stride] for one in utterances[:num_sequences]]
        steps = [-(-len(own) // stride) for own in frames]
        targets = [self.alphabet.encode(one.text)[:n] for one, n in zip(utterances, steps, strict=False)]
        words = f"{len(frames)} recordings of {data}"
        return Reading(make_batch(frames, targets), words, [], None, "stack")

    def predictor(self, model: CTCModel) -> Any:
        from unspool.tasks.speech.trained import TrainedRecognizer  # which knows this task

        return TrainedRecognizer(self, model)

    def searches(self, listening: Listening) -> Callable[[], Any]:
        """What makes a search for one utterance."""
        return listening.searches(self.alphabet, lambda: self._stored("train").texts)

    def frames_of(self, signal: np.ndarray, name: str = "sound") -> np.ndarray:
        """Normalized features of samples [N], or of features [T, F].

        Raises:
            DataError: there is not one frame, or the features are of another size.
        """
        frames = signal if signal.ndim == 2 else features_of(signal, self.features)
        if frames.shape[1] != len(self.normalizer.mean):
            raise DataError(f"{name}: {frames.shape[1]} features a frame; the model reads {len(self.normalizer.mean)}.")
        if not len(frames):
            raise DataError(f"{name}: shorter than one frame of {self.features.frame_ms:g} ms.")
        return self.normalizer(frames)

    @torch.no_grad()
    def listen(self, model: CTCModel, batch: SpeechBatch, begins: Callable[[], Any]) -> list[Transcript]:
        """What is said in each recording of a batch."""
        model.eval()
        batch = batch.to(model.output.weight.device)
        chances, steps = model(batch.frames, batch.lengths)
        found, seconds = [], model.stride * self.features.shift_ms / 1000
        for b, count in enumerate(steps.tolist()):
            search = begins()
            for row in chances[:count, b].cpu().numpy():
                search.advance(row)
            found.append(self.alphabet.transcript(search.best()[0], seconds))
        return found

    def _named(self, data: str) -> tuple[list[Utterance], Callable[[Utterance], np.ndarray]]:
        """Utterances and how to read them."""
        own = {"train": "train", "validation": "dev"}.get(data)
        if own is None:
            return read_utterances(data), lambda one: one.read(self.features)
        if own == "dev" and not self.data.dev:
            raise DataError("validation: the model was trained without --dev; name a list of recordings.")
        stored = self._stored(own)
        rows = [Utterance(data, f"{data} {n + 1}", text, Path(), key=str(n)) for n, text in enumerate(stored.texts)]
        return rows, lambda one: stored.signal(int(one.key))

    def _stored(self, split: str) -> Recordings:
        return Recordings.open(self.folder / "tokens" / split)

    def _batches(self, split: str, seed: int | None = None) -> SpeechBatches:
        return SpeechBatches(self._stored(split), self.data, self.features, self.normalizer, seed)


class _Reader:
    """Reads the recordings of a list, names those that are left out, and learns what features are like."""

    def __init__(self, data: SpeechData, features: FeatureSettings, stride: int, alphabet: Alphabet):
        self.data, self.features, self.stride, self.alphabet = data, features, stride, alphabet
        self.count, self.sum, self.squares = 0, np.zeros(0), np.zeros(0)

    def read(
        self, utterances: Sequence[Utterance], source: str, learn: bool
    ) -> Iterator[tuple[np.ndarray, int, list[int], str]]:
        """Signals with their frames, targets and texts.

        Raises:
            DataError: a recording cannot be read (unless `skip_bad`), or none is left.
        """
        left_out: list[str] = []
        console = Console(stderr=True)
        for one in track(utterances, source, console=console, transient=True, disable=not console.is_terminal):
            try:
                signal = one.read(self.features)
            except DataError as error:
                if not self.data.skip_bad:
                    raise DataError(f"{error} Mend it, or leave such recordings out with --skip-bad.") from None
                left_out.append(str(error))
                continue
            frames = signal if signal.ndim == 2 else features_of(signal, self.features)
            if self.count and frames.shape[1] != len(self.sum):
                raise DataError(f"{one.where}: {frames.shape[1]} features a frame, expected {len(self.sum)}.")
            target = self.alphabet.encode(one.text)
            reason = self._unfit(len(frames), target) if learn else "" if len(frames) else "shorter than one frame"
            if reason:
                left_out.append(f"{one.where}: {one.name}: {reason}")
                continue
            if learn:
                self._learn(frames)
            yield signal, len(frames), target, tidy(one.text)
        for line in left_out:
            print(f"left out: {line}", file=sys.stderr)
        if left_out:
            print(f"{source}: {len(left_out):,} of {len(utterances):,} recordings left out.", file=sys.stderr)
        if len(left_out) == len(utterances):
            raise DataError(f"{source}: no recordings are left.")

    def normalizer(self) -> Normalizer:
        """From all frames read for training."""
        mean = self.sum / self.count
        deviation = np.sqrt(np.maximum(self.squares / self.count - mean**2, 1e-6))
        return Normalizer(self.features.normalize, mean, deviation)

    def _unfit(self, frames: int, target: list[int]) -> str:
        steps = -(-int(frames / max(self.data.speed_list)) // self.stride)  # at the highest speed
        seconds = frames * self.features.shift_ms / 1000
        needed = int(needed_steps(torch.tensor([target or [0]]), torch.tensor([len(target)]))[0])
        if not frames:
            return "shorter than one frame"
        if seconds > self.data.longest_seconds:
            return f"{seconds:.1f} s, longer than longest_seconds, {self.data.longest_seconds:g}; cut it"
        if steps < needed:
            return f"its text needs {needed} steps and there are {steps}; is it the right text, or --stride too large?"
        return ""

    def _learn(self, frames: np.ndarray) -> None:
        own = frames.astype(np.float64)
        self.count += len(own)
        self.sum = self.sum + own.sum(0) if self.sum.size else own.sum(0)
        self.squares = self.squares + (own**2).sum(0) if self.squares.size else (own**2).sum(0)
