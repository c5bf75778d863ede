"""Recordings in the run's folder, and batches of them: as they are, or as training hears them.

Masks of time and features: Park et al. 2019 (arXiv 1904.08779). Speeds: Ko et al. 2015 (Interspeech, "Audio augmentation for
speech recognition").
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch

from unspool.data.audio import read_audio, resample
from unspool.data.buckets import Buckets
from unspool.errors import CheckpointError, DataError
from unspool.models.ctc import SpeechBatch
from unspool.tasks.speech.features import FeatureSettings, features_of
from unspool.tasks.speech.settings import SpeechData

_CACHED = 2**28  # features kept in memory, as numbers


class Recordings:
    """Signals one after the other in one file, mapped into memory: samples of 16 bits, or features.

    Args:
        signals: all numbers of all recordings.
        sizes: [N] numbers of each.
        width: features of a frame; 0: the signals are samples.
        targets: the symbols of each.
        texts: what is said in each.
        frames: [N] frames of each.
    """

    def __init__(
        self,
        signals: np.ndarray,
        sizes: Sequence[int],
        width: int,
        targets: Sequence[Sequence[int]],
        texts: Sequence[str],
        frames: Sequence[int],
    ):
        self.signals, self.width, self.targets, self.texts, self.frames = signals, width, targets, texts, frames
        self.bounds = np.concatenate([[0], np.cumsum(sizes)])

    def __len__(self) -> int:
        return len(self.texts)

    def signal(self, row: int) -> np.ndarray:
        """Samples [N], or features [T, F], float32."""
        own = self.signals[self.bounds[row] : self.bounds[row + 1]]
        if self.width:
            return np.asarray(own, np.float32).reshape(-1, self.width)
        return own.astype(np.float32) / 32768

    @classmethod
    def write(cls, path: Path, signals: Iterable[tuple[np.ndarray, int, list[int], str]]) -> Self:
        """Stores signals with their frames, targets and texts."""
        sizes, frames, targets, texts, width = [], [], [], [], 0
        with path.with_suffix(".raw").open("wb") as file:
            for signal, count, target, text in signals:
                width = signal.shape[1] if signal.ndim == 2 else 0
                own = signal if width else np.clip(np.rint(signal * 32768), -32768, 32767).astype(np.int16)
                file.write(np.ascontiguousarray(own).tobytes())
                sizes.append(own.size)
                frames.append(count)
                targets.append(target)
                texts.append(text)
        index = {"sizes": sizes, "width": width, "targets": targets, "texts": texts, "frames": frames}
        path.with_suffix(".json").write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """What `write` stored.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            kind = np.float32 if index["width"] else np.int16
            return cls(np.memmap(path.with_suffix(".raw"), kind, "r"), **index)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); the run's folder is damaged.") from error


class Normalizer:
    """Features with mean 0 and variance 1: of the training data, of the recording itself, or as they are.

    Args:
        kind: global, utterance or none.
        mean, deviation: [F] of the training data.
    """

    def __init__(self, kind: str, mean: np.ndarray, deviation: np.ndarray):
        self.kind, self.mean = kind, np.asarray(mean, np.float32)
        self.deviation = np.asarray(deviation, np.float32)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        if self.kind == "none" or not len(frames):
            return frames
        if self.kind == "global":
            return (frames - self.mean) / self.deviation
        return (frames - frames.mean(0)) / np.maximum(frames.std(0), 1e-3)


class SpeechBatches:
    """Recordings in batches of like length.

    Args:
        recordings: what was stored.
        data, features: how they are read.
        normalizer: of features.
        seed: of the order and of what training hears; None: in order of length, as they are.
    """

    def __init__(
        self,
        recordings: Recordings,
        data: SpeechData,
        features: FeatureSettings,
        normalizer: Normalizer,
        seed: int | None = None,
    ):
        self.recordings, self.data, self.features, self.normalizer = recordings, data, features, normalizer
        self.seed = seed
        self.buckets = Buckets(recordings.frames, int(data.batch_seconds * 1000 / features.shift_ms), seed)
        self.batch_size = 1  # a state's rows; recordings carry none
        self.varies = seed is not None and data.changes_sound and not recordings.width
        self.noises = sorted(Path(data.noise).iterdir()) if self.varies and data.noise else []
        self.kept: dict[int, np.ndarray] = {}
        self.num_kept = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.buckets)

    def batch(self, epoch: int, index: int) -> SpeechBatch:
        """The batch of a place."""
        rows = self.buckets.rows(epoch, index)
        frames = [self._heard(row, epoch) for row in rows]
        return make_batch(frames, [self.recordings.targets[row] for row in rows])

    def _heard(self, row: int, epoch: int) -> np.ndarray:
        chance = np.random.default_rng((self.seed or 0, epoch, row))
        frames = self.kept.get(row)
        if frames is None:
            signal = self.recordings.signal(row)
            if not self.recordings.width:
                signal = features_of(self._varied(signal, chance) if self.varies else signal, self.features)
            frames = self.normalizer(signal)
            if not self.varies and self.num_kept < _CACHED:
                self.kept[row], self.num_kept = frames, self.num_kept + frames.size
        return frames if self.seed is None else self._masked(frames, chance)

    def _varied(self, samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        rate = self.features.sample_rate
        samples = resample(samples, rate * chance.choice(self.data.speed_list), rate)
        if self.data.gain_db:
            samples = samples * np.float32(10 ** (chance.uniform(-self.data.gain_db, self.data.gain_db) / 20))
        if self.data.noise_snr and chance.random() < 0.5:
            noise = self._noise(len(samples), chance)
            samples = add_noise(samples, noise, chance.uniform(self.data.snr[0], self.data.snr[1]))
        least = int(rate * self.features.frame_ms / 1000) + 1
        return np.pad(samples, (0, max(0, least - len(samples))))

    def _noise(self, count: int, chance: np.random.Generator) -> np.ndarray:
        if not self.noises:
            return chance.standard_normal(count).astype(np.float32)
        sound = read_audio(self.noises[chance.integers(len(self.noises))], self.features.sample_rate)
        begin = chance.integers(max(1, len(sound) - count))
        return np.resize(sound[begin:], count)

    def _masked(self, frames: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        """Hides bands and stretches behind zeros, which are the mean of normalized features; given features change speed."""
        if self.recordings.width and (speed := chance.choice(self.data.speed_list)) != 1.0:
            places = np.minimum(np.arange(0, len(frames), speed), len(frames) - 1)  # arange may overrun by rounding
            low, part = places.astype(int), (places % 1).astype(np.float32)[:, None]
            frames = frames[low] * (1 - part) + frames[np.minimum(low + 1, len(frames) - 1)] * part
        frames, (length, width) = frames.copy(), frames.shape
        longest = min(int(self.data.time_mask_seconds * 1000 / self.features.shift_ms), length // 5)
        for _ in range(self.data.feature_masks):
            size = chance.integers(min(self.data.feature_mask_width, width // 5) + 1)
            begin = chance.integers(width - size + 1)
            frames[:, begin : begin + size] = 0.0
        for _ in range(self.data.time_masks):
            size = chance.integers(longest + 1)
            begin = chance.integers(length - size + 1)
            frames[begin : begin + size] = 0.0
        return frames


def add_noise(samples: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    """Noise under a signal, whose power is so many decibels above it."""
    power, own = float(np.mean(samples**2)), float(np.mean(noise**2))
    if power == 0 or own == 0:
        return samples
    return samples + noise * np.float32(np.sqrt(power / own / 10 ** (decibels / 10)))


def make_batch(frames: Sequence[np.ndarray], targets: Sequence[Sequence[int]]) -> SpeechBatch:
    """Recordings side by side.

    Raises:
        DataError: one has no frames.
    """
    lengths = torch.tensor([len(own) for own in frames])
    if not lengths.min():
        raise DataError("a recording is shorter than one frame.")
    held = torch.zeros(int(lengths.max()), len(frames), frames[0].shape[1])
    symbols = torch.zeros(len(frames), max(1, *map(len, targets)) if targets else 1, dtype=torch.long)
    for b, (own, target) in enumerate(zip(frames, targets, strict=True)):
        held[: len(own), b] = torch.from_numpy(np.array(own))
        symbols[b, : len(target)] = torch.tensor(target, dtype=torch.long)
    return SpeechBatch(held, lengths, symbols, torch.tensor([len(target) for target in targets]))
