"""What a user says of a speech recogniser: its recordings and its network."""

from dataclasses import dataclass

from unspool.config import check_settings, require, setting
from unspool.errors import ConfigError
from unspool.tasks.cells import CellSettings


@dataclass(frozen=True)
class SpeechData:
    """Which recordings, and how they are read."""

    train: str = setting("", "training recordings: .jsonl, .tsv, .csv, Kaldi folder, or .npz of features beside a .tsv")
    dev: str = setting("", "validation recordings; empty: none")
    unit: str = setting("character", "what the recogniser writes", ("character", "bpe"))
    vocabulary_size: int = setting(0, "bpe: pieces, at least 256")
    longest_seconds: float = setting(30.0, "longer recordings are left out of training, and named")
    batch_seconds: float = setting(160.0, "seconds of a batch, padding included")
    skip_bad: bool = setting(False, "leave unreadable recordings out, and name them, instead of stopping")
    speeds: str = setting("1", "training: one of these speeds each time, as 0.9,1,1.1")
    gain_db: float = setting(0.0, "training: louder or softer by up to so many decibels; of sound, as noise is")
    noise: str = setting("", "training: folder of sounds to mix in; empty: white noise, where noise_snr asks for noise")
    noise_snr: str = setting("", "training: signal over noise in decibels, as 5-20, for half of the recordings")
    feature_masks: int = setting(2, "SpecAugment: bands of features hidden in training")
    feature_mask_width: int = setting(8, "SpecAugment: widest band, and never more than a fifth of all")
    time_masks: int = setting(2, "SpecAugment: stretches of time hidden in training")
    time_mask_seconds: float = setting(0.3, "SpecAugment: longest stretch, and never more than a fifth of a recording")

    def __post_init__(self) -> None:
        bounds = {
            "between 1 and 1,000,000": "longest_seconds batch_seconds",
            "between 0 and 1,000": "gain_db feature_masks feature_mask_width time_masks time_mask_seconds",
        }
        check_settings(self, bounds)
        require(bool(self.train), "train", self.train, "a manifest, a Kaldi folder or an .npz file")
        require(all(0.5 <= speed <= 2 for speed in self.speed_list), "speeds", self.speeds, "numbers from 0.5 to 2")
        rising = len(self.snr) == 2 and 0 <= self.snr[0] <= self.snr[1] < float("inf")
        require(rising or not (self.noise_snr or self.noise), "noise_snr", self.noise_snr, "two numbers, as 5-20")

    @property
    def speed_list(self) -> list[float]:
        """The speeds as numbers."""
        return _numbers(self.speeds, ",", "speeds", "0.9,1,1.1")

    @property
    def snr(self) -> list[float]:
        """The lowest and the highest signal over noise."""
        return _numbers(self.noise_snr, "-", "noise_snr", "5-20") if self.noise_snr else []

    @property
    def changes_sound(self) -> bool:
        """Whether training hears something else each time."""
        return self.speed_list != [1.0] or bool(self.gain_db or self.noise_snr)


@dataclass(frozen=True)
class RecognizerSettings(CellSettings):
    """Which network."""

    hidden_size: int = setting(320, "units of each layer and direction")
    num_layers: int = setting(3, "layers")
    bidirectional: bool = setting(True, "read both ways; such a model cannot stream")
    stride: int = setting(3, "frames from one step to the next")
    window: int = setting(5, "frames that a step reads, at least the stride")
    channels: int = setting(0, "of a strided convolution over the window; 0: its frames side by side")
    look_ahead: int = setting(0, "steps that a one-directional model looks ahead")
    dropout: float = setting(0.3, "of what layers hand on, locked over a recording")
    layer_norm: bool = setting(True, "normalize the input of each layer")
    residual: bool = setting(False, "add each layer's input to its output where sizes allow")

    def __post_init__(self) -> None:
        bounds = {
            "between 1 and 65,536": "hidden_size num_layers",
            "between 1 and 256": "stride window",
            "between 0 and 65,536": "channels look_ahead",
            "at least 0 and below 1": "dropout",
        }
        check_settings(self, bounds)
        require(self.window >= self.stride, "window", self.window, f"at least stride, {self.stride}")
        fits = not (self.bidirectional and self.look_ahead)
        require(fits, "look_ahead", self.look_ahead, "0 for a bidirectional model (or give --no-bidirectional)")


def _numbers(text: str, between: str, name: str, example: str) -> list[float]:
    try:
        return [float(part) for part in text.split(between)]
    except ValueError:
        raise ConfigError(f"{name} must be numbers as in {example}, got {text!r}.") from None
