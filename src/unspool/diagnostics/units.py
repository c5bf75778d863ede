"""Units: which single units of a model follow something in the text that a person can name.

The classic picture of a character language model (Karpathy, Johnson & Fei-Fei 2015, arXiv 1506.02078, section 4.2): text
coloured by one unit's activation. Here the units that are worth looking at are found by their correlation with features.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from unspool.diagnostics.recording import Recording
from unspool.diagnostics.saturation import saturation


class Signal(NamedTuple):
    """One value of every unit of a layer at every step of a text: a state or a gate, [T, H]; of all but a few within low..high."""

    layer: str
    name: str
    values: Tensor
    low: float
    high: float


class Selective(NamedTuple):
    """A unit that follows a feature: where it is, the feature's name, and their correlation."""

    signal: int
    unit: int
    feature: str
    correlation: float


def signals(recordings: Sequence[Recording]) -> list[Signal]:
    """The states and gates of the first sequence of each recording."""
    found = []
    for recording in recordings:
        for name, state in zip(recording.names, recording.states, strict=True):
            values = state[:, 0].nan_to_num(neginf=0.0)
            bound = float(values.abs().quantile(0.995)) if values.numel() < 2**24 else float(values.abs().max())
            found.append(Signal(recording.layer, name, values, -max(bound, 1e-6), max(bound, 1e-6)))
        first = type(recording.states)(*(states[:, :1] for states in recording.states))
        before = type(recording.states)(*(initial[:1] for initial in recording.initial))
        reset = None if recording.reset is None else recording.reset[:, :1]
        alone = replace(
            recording, x=recording.x[:, :1], initial=before, states=first, probes=(), lengths=None, reset=reset
        )
        for a in saturation(alone, most_rows=len(recording.x)).activations:
            if a.name in recording.cell.gates:
                low = 0.0 if a.kind != "tanh" else -1.0
                found.append(Signal(recording.layer, f"gate {a.name}", a.values, low, max(1.0, float(a.values.max()))))
    return found


def selective_units(found: Sequence[Signal], symbols: Sequence[str], most: int = 24) -> list[Selective]:
    """Units whose value follows a feature of the text most closely, the best of each feature first.

    Args:
        found: from `signals`; only states are searched.
        symbols: what was read at each step.
        most: how many to return.
    """
    chosen: list[Selective] = []
    for name, feature in _features(symbols).items():
        if float(feature.std()) < 1e-6:
            continue
        wanted = (feature - feature.mean()) / feature.std()
        ranked: list[Selective] = []
        for place, signal in enumerate(found):
            if signal.name.startswith("gate"):
                continue
            centred = signal.values.double() - signal.values.double().mean(0)
            scores = (wanted.to(centred.device).unsqueeze(1) * centred).mean(0) / centred.std(0).clamp(min=1e-9)
            best = scores.abs().topk(min(3, len(scores)))
            ranked += [Selective(place, int(u), name, float(scores[u])) for u in best.indices]
        chosen += sorted(ranked, key=lambda one: -abs(one.correlation))[:3]
    return sorted((one for one in chosen if abs(one.correlation) > 0.25), key=lambda one: -abs(one.correlation))[:most]


def _features(symbols: Sequence[str]) -> dict[str, Tensor]:
    """What a person could see at each step: of its symbol, and of where in line, word, quotes and brackets it stands."""
    places: dict[str, list[float]] = {name: [] for name in ("in quotes", "bracket depth", "place in line", "place in word", "indentation")}  # fmt: skip
    quote, depth, column, word, indent, leading = "", 0, 0, 0, 0, True
    for symbol in symbols:
        for character in symbol:
            if character == "\n":
                quote, column, indent, leading, word = "", 0, 0, True, 0
                continue
            if leading and character in " \t":
                indent += 1
            else:
                leading = False
            if character in "\"'" and quote in ("", character) and not (character == "'" and word and not quote):
                quote = "" if quote else character
            depth = max(0, depth + (character in "([{") - (character in ")]}"))
            column, word = column + 1, word + 1 if character.isalnum() else 0
        for name, value in zip(places, (bool(quote), depth, column, word, indent), strict=True):
            places[name].append(float(value))
    kinds: dict[str, Callable[[str], bool]] = {
        "capital letter": str.isupper,
        "digit": str.isdigit,
        "white space": str.isspace,
        "end of line": lambda s: "\n" in s,
        "vowel": lambda s: s in tuple("aeiouAEIOU"),
        "punctuation": lambda s: bool(s.strip()) and not any(c.isalnum() for c in s),
    }
    seen = {name: [float(test(symbol)) for symbol in symbols] for name, test in kinds.items()}
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in (places | seen).items()}
