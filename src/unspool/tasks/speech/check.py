"""Looking at recordings before training: what cannot be read, what may surprise, and how much there is."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from unspool.config import require
from unspool.data.audio import probe
from unspool.errors import DataError
from unspool.models.ctc import needed_steps
from unspool.tasks.checked import Checked
from unspool.tasks.speech.alphabet import tidy
from unspool.tasks.speech.features import FeatureSettings
from unspool.tasks.speech.manifest import Utterance, read_utterances
from unspool.tasks.speech.settings import RecognizerSettings

_SHOWN = 20  # notes of one kind


def check_recordings(sources: Sequence[str], stride: int = RecognizerSettings.stride) -> Checked:
    """Reads every recording of some lists, the one to train on first.

    Args:
        sources: as for training.
        stride: frames of 10 ms from one step to the next, for what cannot be aligned.
    """
    require(stride >= 1, "stride", stride, "at least 1")
    problems: list[str] = []
    notes: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    letters: set[str] = set()
    seen: dict[tuple[str, float], str] = {}
    settings = FeatureSettings()
    for source in sources:
        try:
            utterances = read_utterances(source)
        except DataError as error:
            problems.append(str(error))
            continue
        rates: Counter[str] = Counter()
        own: set[str] = set()
        seconds = longest = 0.0
        for one in utterances:
            text = tidy(one.text)
            own |= set(text)
            try:
                signal = one.read(settings)
            except DataError as error:
                problems.append(str(error))
                continue
            length = len(signal) / settings.sample_rate if signal.ndim == 1 else len(signal) * settings.shift_ms / 1000
            seconds, longest = seconds + length, max(longest, length)
            rates["features" if one.key else str(probe(one.path).rate)] += 1
            for kind, what in _surprises(one, text, signal, length, stride, settings):
                notes.setdefault(kind, []).append(f"{one.where}: {one.name}: {what}")
            key = f"{one.path.resolve()} {one.key}", one.begin
            if key in seen and seen[key] != source:
                notes.setdefault("split", []).append(f"{one.where}: {one.name}: also in {seen[key]}")
            seen.setdefault(key, source)
        new = sorted(own - letters) if letters else []
        if new:
            notes.setdefault("letters", []).append(f"{source}: characters that {sources[0]} has not: {' '.join(new)}")
        letters = letters or own
        values[source] = {
            "recordings": len(utterances),
            "minutes": round(seconds / 60, 2),
            "longest, seconds": round(longest, 2),
            "words": sum(len(one.text.split()) for one in utterances),
            "different characters": len(own),
            "samples a second": dict(rates),
        }
    shown = []
    for rows in notes.values():
        shown += rows[:_SHOWN] + ([f"and {len(rows) - _SHOWN} more like this."] if len(rows) > _SHOWN else [])
    return Checked(problems, shown, values)


def _surprises(
    one: Utterance, text: str, signal: np.ndarray, seconds: float, stride: int, settings: FeatureSettings
) -> list[tuple[str, str]]:
    found = []
    if not text:
        found.append(("text", "no text"))
    if signal.ndim == 1:
        loudest = float(np.abs(signal).max(initial=0.0))
        clipped = float((np.abs(signal) > 0.999).mean())
        if loudest < 1e-3:
            found.append(("silence", "silence"))
        if clipped > 1e-3:
            found.append(("clipping", f"clipped, {clipped:.1%} of its samples are as loud as can be"))
    letters = torch.tensor([[ord(letter) for letter in text] or [0]])
    needed = int(needed_steps(letters, torch.tensor([len(text)]))[0])
    frames = len(signal) if signal.ndim == 2 else 1 + int((seconds * 1000 - settings.frame_ms) // settings.shift_ms)
    steps = -(-max(0, frames) // stride)
    if needed > steps:
        found.append(("steps", f"{len(text)} characters in {seconds:.2f} s: they need {needed} steps of {steps}"))
    return found
