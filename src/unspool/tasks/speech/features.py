"""Features of sound: log-mel filter banks and cepstra, for whole recordings and for streams from one code path.

The filters are Kaldi's (`kaldi-native-fbank`); deltas are regressions over five frames (Young et al., The HTK Book, section
5.9), the first and the last frame repeated.
"""

from dataclasses import dataclass

import numpy as np

from unspool.config import check_settings, require, setting
from unspool.data.audio import Samples, speech_package
from unspool.errors import ConfigError

Frames = np.ndarray
"""[T, F] float32."""

_REACH = 2  # frames on each side that a delta looks at


@dataclass(frozen=True)
class FeatureSettings:
    """What is computed of sound."""

    features: str = setting("fbank", "log-mel filter bank or cepstra", ("fbank", "mfcc"))
    sample_rate: int = setting(16_000, "samples a second; other rates are resampled to it")
    num_filters: int = setting(40, "mel filters")
    num_ceps: int = setting(13, "mfcc: coefficients kept")
    frame_ms: float = setting(25.0, "length of a frame in milliseconds")
    shift_ms: float = setting(10.0, "from one frame to the next, in milliseconds")
    deltas: int = setting(0, "0: none; 1: differences over time too; 2: and theirs")
    normalize: str = setting("global", "mean 0 and variance 1", ("global", "utterance", "none"))

    def __post_init__(self) -> None:
        bounds = {
            "between 1,000 and 200,000": "sample_rate",
            "between 4 and 256": "num_filters",
            "between 0 and 2": "deltas",
            "between 1 and 1,000": "frame_ms shift_ms",
        }
        check_settings(self, bounds)
        require(2 <= self.num_ceps <= self.num_filters, "num_ceps", self.num_ceps, "between 2 and num_filters")


class Featurizer:
    """Frames from samples that come piece by piece; how they are cut changes no bit.

    Args:
        settings: what to compute.
    """

    def __init__(self, settings: FeatureSettings):
        kaldi = speech_package("kaldi_native_fbank")
        is_mfcc = settings.features == "mfcc"
        options = kaldi.MfccOptions() if is_mfcc else kaldi.FbankOptions()
        frame = options.frame_opts
        frame.samp_freq, frame.dither = float(settings.sample_rate), 0.0  # no chance in features
        frame.frame_length_ms, frame.frame_shift_ms = settings.frame_ms, settings.shift_ms
        options.mel_opts.num_bins = settings.num_filters
        if is_mfcc:
            options.num_ceps, options.use_energy = settings.num_ceps, False
        self.rate, self.count = settings.sample_rate, 0
        try:
            self.extractor = (kaldi.OnlineMfcc if is_mfcc else kaldi.OnlineFbank)(options)
        except ValueError as error:
            raise ConfigError(f"features: {error} Take fewer num_filters, or longer frames.") from None
        self.size = settings.num_ceps if is_mfcc else settings.num_filters
        self.deltas = [Deltas(self.size * (order + 1), self.size) for order in range(settings.deltas)]

    def feed(self, samples: Samples) -> Frames:
        """Frames that have become ready."""
        self.extractor.accept_waveform(self.rate, np.asarray(samples, np.float32) * 32768)  # Kaldi's scale
        frames = self._ready()
        for stage in self.deltas:
            frames = stage.feed(frames)
        return frames

    def finish(self) -> Frames:
        """The last frames."""
        self.extractor.input_finished()
        frames = self._ready()
        for stage in self.deltas:
            frames = np.concatenate([stage.feed(frames), stage.finish()])
        return frames

    def _ready(self) -> Frames:
        found = [np.array(self.extractor.get_frame(n)) for n in range(self.count, self.extractor.num_frames_ready)]
        self.extractor.pop(len(found))
        self.count += len(found)
        return np.stack(found) if found else np.zeros((0, self.size), np.float32)


class Deltas:
    """Appends to each frame the slopes of its last features over five frames.

    Args:
        width: features of a frame.
        size: how many of them, the last ones, get slopes.
    """

    def __init__(self, width: int, size: int):
        self.size = size
        self.none: Frames = np.zeros((0, width + size), np.float32)
        self.held: Frames | None = None

    def feed(self, frames: Frames) -> Frames:
        """Frames that have become ready, with their slopes."""
        if not len(frames):
            return self.none
        before = np.repeat(frames[:1], _REACH, 0) if self.held is None else self.held
        return self._slopes(np.concatenate([before, frames]))

    def finish(self) -> Frames:
        """The last ones."""
        if self.held is None:
            return self.none
        return self._slopes(np.concatenate([self.held, np.repeat(self.held[-1:], _REACH, 0)]))

    def _slopes(self, frames: Frames) -> Frames:
        ready = len(frames) - 2 * _REACH
        self.held = frames[max(0, ready) :]
        if ready <= 0:
            return self.none
        last = frames[:, -self.size :]
        steps = range(1, _REACH + 1)
        ahead = [n * (last[_REACH + n : _REACH + n + ready] - last[_REACH - n : _REACH - n + ready]) for n in steps]
        slopes = sum(ahead[1:], ahead[0]) / np.float32(2 * sum(n * n for n in steps))
        return np.concatenate([frames[_REACH : _REACH + ready], slopes.astype(np.float32)], 1)


def add_deltas(frames: Frames, order: int) -> Frames:
    """Deltas of whole recordings whose features somebody else has computed."""
    size = frames.shape[1]
    for place in range(order):
        stage = Deltas(size * (place + 1), size)
        frames = np.concatenate([stage.feed(frames), stage.finish()])
    return frames


def features_of(samples: Samples, settings: FeatureSettings) -> Frames:
    """Frames of a whole recording."""
    featurizer = Featurizer(settings)
    return np.concatenate([featurizer.feed(samples), featurizer.finish()])
