"""Looking at pairs of sentences before training."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from unspool.errors import ConfigError, DataError
from unspool.tasks.checked import Checked
from unspool.tasks.translation.pairs import read_pairs
from unspool.tasks.translation.settings import is_table

_WIDE = 4.0  # times as many words on one side as on the other


def check_pairs(files: Sequence[str]) -> Checked:
    """Reads aligned files: those to train on first, then those of other splits.

    Args:
        files: source and target of each split; a ``.tsv`` stands for both.

    Raises:
        ConfigError: a source has no target.
    """
    splits: list[tuple[str, str]] = []
    waiting = iter(files)
    for source in waiting:
        target = "" if is_table(source) else next(waiting, None)
        if target is None:
            raise ConfigError(f"{source}: no target file after it; name source and target of each split.")
        splits.append((source, target))
    problems: list[str] = []
    notes: list[str] = []
    values: dict[str, Any] = {}
    first: set[tuple[str, str]] = set()
    for number, (source, target) in enumerate(splits):
        try:
            pairs = read_pairs(source, target)
        except DataError as error:
            problems.append(str(error))
            continue
        problems += _empty(source, target, pairs)
        lengths = [(len(a.split()), len(b.split())) for a, b in pairs]
        wide = [
            n
            for n, (a, b) in enumerate(lengths, start=1)
            if a and b and max(a, b) >= _WIDE * min(a, b) and max(a, b) > 8
        ]
        if wide:
            shown = ", ".join(map(str, wide[:5]))
            notes.append(f"{source}: {len(wide)} pairs of which one side is {_WIDE:.0f} times as long: lines {shown}")
        repeated = Counter(pairs)
        values[f"{source} {target}".strip()] = {
            "pairs": len(pairs),
            "words": f"{sum(a for a, _ in lengths):,} and {sum(b for _, b in lengths):,}",
            "longest": f"{max((a for a, _ in lengths), default=0)} and {max((b for _, b in lengths), default=0)} words",
            "repeated pairs": len(pairs) - len(repeated),
            **({"pairs also in the first": sum(n for pair, n in repeated.items() if pair in first)} if number else {}),
        }
        if not number:
            first = set(pairs)
    return Checked(problems, notes, values)


def _empty(source: str, target: str, pairs: list[tuple[str, str]]) -> list[str]:
    if not pairs:
        return [f"{source}: no lines."]
    return [
        f"{name}:{number}: the line is empty, its partner is not"
        for number, pair in enumerate(pairs, start=1)
        if any(pair)
        for name, side in zip((source, target or source), pair, strict=True)
        if not side
    ]
