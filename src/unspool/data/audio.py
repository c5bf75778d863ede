"""Sound from files: samples of one channel at one rate, refused by name where a file is not what it seems."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unspool.errors import ConfigError, DataError

Samples = np.ndarray
"""[N] float32 in -1..1."""


def speech_package(name: str) -> Any:
    """A package of the extra ``speech``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return __import__(name)
    except (ImportError, OSError) as error:
        raise ConfigError(f"speech needs the package {name}; install it with pip install 'unspool[speech]'.") from error


class Sound(NamedTuple):
    """What a file says it holds.

    rate: samples a second.  channels: of them.  seconds: its length.
    """

    rate: int
    channels: int
    seconds: float


def probe(path: Path) -> Sound:
    """What a sound file says of itself, without its samples.

    Raises:
        DataError: there is no such file, or it is no sound.
    """
    soundfile = speech_package("soundfile")
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise DataError(f"{path}: is no sound file that can be read ({_reason(error)}).") from None
    return Sound(info.samplerate, info.channels, info.frames / info.samplerate)


def read_audio(path: Path, rate: int, begin: float = 0.0, end: float | None = None) -> Samples:
    """The samples of a file, or of its seconds from `begin` to `end`: the mean of its channels, resampled to `rate`.

    Raises:
        DataError: it is missing, no sound, cut off, empty, or has samples that are no numbers.
    """
    soundfile, sound = speech_package("soundfile"), probe(path)
    first = round(begin * sound.rate)
    whole = round(sound.seconds * sound.rate)
    last = whole if end is None or whole / sound.rate < end < whole / sound.rate + 0.1 else round(end * sound.rate)
    try:
        with soundfile.SoundFile(str(path)) as file:
            file.seek(min(first, file.frames))
            samples = file.read(max(0, last - first), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read to its end ({_reason(error)}); it is cut off or damaged.") from None
    if len(samples) < last - first or _promises_more(path):
        ends = (min(first, whole) + len(samples)) / sound.rate
        raise DataError(f"{path}: ends at {ends:.2f} s; it is cut off, or offset and duration lie beyond it.")
    if not len(samples):
        raise DataError(f"{path}: holds no samples from {begin:g} s to {last / sound.rate:g} s.")
    wrong = ~(np.abs(samples) < 1e6)
    if wrong.any():
        bad = int(np.argwhere(wrong)[0][0])
        raise DataError(f"{path}: has samples that are no numbers or absurd, the first at {bad / sound.rate:.3f} s.")
    return resample(samples.mean(axis=1), sound.rate, rate)


def resample(samples: Samples, from_rate: float, to_rate: float) -> Samples:
    """The same sound at another rate."""
    resampler = Resampler(from_rate, to_rate)
    return np.concatenate([resampler.feed(samples), resampler.finish()])


class Resampler:
    """Another rate for sound that comes piece by piece; how it is cut changes no bit of the result.

    Args:
        from_rate, to_rate: samples a second.
    """

    def __init__(self, from_rate: float, to_rate: float):
        self.stream, self.block = None, max(1, round(from_rate / 50))  # samples that enter together
        if from_rate != to_rate:
            self.stream = speech_package("soxr").ResampleStream(from_rate, to_rate, 1, dtype="float32")
        self.waiting: Samples = np.zeros(0, np.float32)

    @classmethod
    def longest_wait(cls, from_rate: float, to_rate: float) -> float:
        """Seconds at most, tried out, from a sample until what stands for it is ready: a block, and the filter's reach."""
        own, count, longest = cls(from_rate, to_rate), 0, 0.0
        for blocks in range(1, 151) if own.stream else ():
            longest = max(longest, blocks * own.block / from_rate - count / to_rate)
            count += len(own.feed(np.zeros(own.block, np.float32)))
        return longest

    def feed(self, samples: Samples) -> Samples:
        """What has become ready."""
        if self.stream is None:
            return samples
        self.waiting = np.concatenate([self.waiting, samples])
        whole = len(self.waiting) // self.block * self.block
        blocks, self.waiting = self.waiting[:whole], self.waiting[whole:]
        ready = [self.stream.resample_chunk(blocks[at : at + self.block]) for at in range(0, whole, self.block)]
        return np.concatenate([self.waiting[:0], *ready])

    def finish(self) -> Samples:
        """The rest."""
        if self.stream is None:
            return np.zeros(0, np.float32)
        return np.asarray(self.stream.resample_chunk(self.waiting, last=True))


def raw_samples(pieces: Iterator[bytes]) -> Iterator[Samples]:
    """Samples from raw bytes, 16 bits each, signed, the low byte first; an odd byte at the end is left out."""
    rest = b""
    for piece in pieces:
        held = rest + piece
        whole = len(held) // 2 * 2
        rest = held[whole:]
        yield np.frombuffer(held[:whole], "<i2").astype(np.float32) / 32768


def _promises_more(path: Path) -> bool:
    """Whether the header of a RIFF file speaks of more bytes than there are; 0 and -1 are written by streams."""
    with path.open("rb") as file:
        head = file.read(12)
    size = int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and 0 < size < 2**32 - 1 and size + 8 > path.stat().st_size + 1


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".").split(": ")[-1]
