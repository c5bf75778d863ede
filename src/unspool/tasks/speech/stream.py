"""Speech as it comes: samples in, words out, in pieces of any size, which change no bit of features and states."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from unspool.config import require
from unspool.data.audio import Resampler
from unspool.errors import ConfigError, DataError
from unspool.layers import Stream
from unspool.models.ctc import CTCModel
from unspool.tasks.speech.alphabet import Alphabet, Transcript
from unspool.tasks.speech.features import FeatureSettings, Featurizer
from unspool.tasks.speech.recordings import Normalizer


class SpeechStream:
    """An open stream of one speaker's samples.

    ::

        stream = recogniser.stream(rate=48_000)
        for samples in microphone:            # [N] float32 in -1..1, any N
            for utterance in stream.feed(samples):
                print(utterance.text)         # ended by silence
            show(stream.partial().text)       # what the utterance that goes on says so far
        for utterance in stream.finish():
            print(utterance.text)

    The step of time t is taken when its window of frames is there; `latency` says how many seconds of sound beyond a
    step's own the model waits for. The recurrent state is carried from utterance to utterance.

    Args:
        model: of one direction, in evaluation mode.
        settings, normalizer, alphabet: of its task.
        searches: makes a search for an utterance.
        rate: of the samples.
        endpoint_seconds: so much silence after a word ends an utterance; 0: never.
    """

    def __init__(
        self,
        model: CTCModel,
        settings: FeatureSettings,
        normalizer: Normalizer,
        alphabet: Alphabet,
        searches: Callable[[], Any],
        rate: int,
        endpoint_seconds: float = 0.0,
    ):
        if model.bidirectional:
            raise ConfigError(
                "a bidirectional model hears the end before the beginning and cannot stream; "
                "train one with --no-bidirectional."
            )
        if normalizer.kind == "utterance":
            raise ConfigError("features normalized by utterance cannot stream; train with --normalize global.")
        require(100 <= rate <= 1_000_000, "rate", rate, "between 100 and 1,000,000 samples a second")
        self.model, self.normalizer, self.alphabet, self.searches = model, normalizer, alphabet, searches
        self.resampler, self.featurizer = Resampler(rate, settings.sample_rate), Featurizer(settings)
        self.layers = Stream(model.stack)
        self.step_seconds = model.stride * settings.shift_ms / 1000
        wait = Resampler.longest_wait(rate, settings.sample_rate)
        beyond = model.window - model.stride + 2 * settings.deltas - 1  # frames, from the end of a step's own
        frame = (settings.frame_ms + beyond * settings.shift_ms) / 1000
        self.latency = wait + frame + model.look_ahead * self.step_seconds
        self.endpoint_steps = endpoint_seconds / self.step_seconds if endpoint_seconds else float("inf")
        self.frames: np.ndarray | None = None  # those that no step has left behind
        self.heard: list[torch.Tensor] = []  # outputs that no look-ahead has left behind
        self.finished, self.steps = False, 0  # that the searches have seen
        self._begin()

    def _begin(self) -> None:
        self.search, self.first, self.silent = self.searches(), self.steps, 0

    def feed(self, samples: np.ndarray) -> list[Transcript]:
        """Takes samples, and gives the utterances that have ended.

        Raises:
            DataError: the samples are not [N] numbers.
        """
        if self.finished:
            raise ConfigError("the stream is finished; open a new one.")
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise DataError(f"stream: expected [N] finite samples, got {list(samples.shape)} or numbers that are none.")
        return self._take(self.featurizer.feed(self.resampler.feed(samples)), False)

    def partial(self) -> Transcript:
        """What the utterance that goes on says so far; what is said of it later may differ."""
        return self._transcript(False)

    def finish(self) -> list[Transcript]:
        """Ends the stream: the utterances that have ended now, the last one always among them."""
        self.finished = True
        rest = self.featurizer.feed(self.resampler.finish())
        ended = self._take(np.concatenate([rest, self.featurizer.finish()]), True)
        return [*ended, self._transcript(True)]

    @torch.no_grad()
    def _take(self, frames: np.ndarray, last: bool) -> list[Transcript]:
        stride, window = self.model.stride, self.model.window
        frames = self.normalizer(frames)
        held = frames if self.frames is None else np.concatenate([self.frames, frames])
        ended = []
        while len(held) >= window or (last and len(held)):
            own = np.zeros((window, held.shape[1]), np.float32)
            own[: len(held)] = held[:window]
            held = held[stride:]
            x = self.model.read(torch.from_numpy(own).view(1, -1).to(self.model.output.weight.device))
            self.heard.append(self.layers.step(x).clone())
            if len(self.heard) > self.model.look_ahead and self._listen():
                ended.append(self._transcript(True))
                self._begin()
        self.frames = held
        while last and self.heard:
            self._listen()
        return ended

    def _listen(self) -> bool:
        """One step more for the search; whether silence has ended the utterance."""
        need = self.model.look_ahead + 1
        padded = self.heard[:need] + [torch.zeros_like(self.heard[0])] * (need - len(self.heard))
        chances = self.model.classify(self.model.look(torch.stack(padded))[0])[0].cpu().numpy()
        self.heard = self.heard[1:]
        self.search.advance(chances)
        self.steps += 1
        self.silent = self.silent + 1 if chances.argmax() == 0 else 0
        return self.silent >= self.endpoint_steps and bool(self.search.best(False)[0].symbols)

    def _transcript(self, finished: bool) -> Transcript:
        best = self.search.best(finished)[0]
        return self.alphabet.transcript(best, self.step_seconds, self.first * self.step_seconds)
