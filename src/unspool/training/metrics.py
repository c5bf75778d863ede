"""Metrics on disk: one JSON line for each report, always; TensorBoard files if asked."""

import contextlib
import json
import statistics
from pathlib import Path
from typing import Any, Self

from unspool.checkpoint import METRICS
from unspool.config import to_json
from unspool.errors import ConfigError


class MetricsLog:
    """Appends reports to a file whose length is part of the checkpoint, so that no report stands there twice.

    Args:
        path: of the JSON lines.
        tensorboard: also write event files, into the folder `tensorboard` beside it.
    """

    def __init__(self, path: Path, tensorboard: bool = False):
        self.path, self.writer = path, None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError(
                    "--tensorboard needs the tensorboard package: pip install unspool[tensorboard]."
                ) from error
            self.writer = SummaryWriter(str(path.with_name("tensorboard")))  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()  # type: ignore[no-untyped-call]

    def write(self, event: str, **values: Any) -> None:
        """Appends one report."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(to_json({"event": event, **values}) + "\n")
        if self.writer is not None:
            for name, value in values.items():
                if name != "step" and isinstance(value, (int, float)):
                    self.writer.add_scalar(f"{event}/{name}", value, values["step"])  # type: ignore[no-untyped-call]

    def position(self) -> int:
        """Length of the file in bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def truncate(self, position: int) -> None:
        """Cuts the file back to a length that `position` gave."""
        if self.position() > position:
            with self.path.open("r+b") as file:
                file.truncate(position)


def typical_gradient_norm(folder: Path) -> float | None:
    """The median norm of the gradient in the last hundred reports of a run; None where there are none."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    norms = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, AttributeError):  # a run that was killed may leave half a line
            report = json.loads(line)
            norms += (
                [float(report["gradient_norm"])]
                if report.get("event") == "train" and report.get("gradient_norm")
                else []
            )
    return statistics.median(norms[-100:]) if norms else None
