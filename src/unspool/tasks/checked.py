"""What looking at data before training has found."""

from typing import Any, NamedTuple


class Checked(NamedTuple):
    """What was found in files.

    problems: each with file and line.
    notes: what is no mistake but may surprise, each a line.
    values: counts, for people and programs.
    """

    problems: list[str]
    notes: list[str]
    values: dict[str, Any]

    def lines(self) -> list[str]:
        """All of it for people."""
        text = [*self.problems, *(f"note: {note}" for note in self.notes)]
        for name, values in self.values.items():
            text += ["", name]
            text += [f"  {key:28s} {_shown(value)}" for key, value in values.items()]
        return text


def _shown(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:,}" if isinstance(value, int) else str(value)
    most = [f"{tag} {n:,}" for tag, n in list(value.items())[:20]]
    return ", ".join(most) + (f", and {len(value) - 20} more" if len(value) > 20 else "")
