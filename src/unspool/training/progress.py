"""What a person sees while a model trains: a live bar on a terminal, a line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol, Self


class Progress(Protocol):
    """Where a trainer reports to."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None: ...

    def update(self, step: int, units: int, loss: float, epoch: int) -> None: ...

    def note(self, text: str) -> None: ...

    def line(self, text: str) -> None: ...


class SilentProgress:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        return None

    def update(self, step: int, units: int, loss: float, epoch: int) -> None:
        """Takes note of an update."""

    def note(self, text: str) -> None:
        """Takes a text that stands behind the numbers from now on."""

    def line(self, text: str) -> None:
        """Takes note of a message."""


class PlainProgress(SilentProgress):
    """A line on standard error every `interval` seconds; for logs and pipes."""

    def __init__(self, num_steps: int, unit: str, interval: float = 10.0):
        self.num_steps, self.unit, self.interval = num_steps, unit, interval
        self.meter = _Meter()
        self.spoken = time.monotonic()

    def update(self, step: int, units: int, loss: float, epoch: int) -> None:
        self.meter.update(step, units, loss, epoch)
        if time.monotonic() - self.spoken >= self.interval or step == self.num_steps:
            self.spoken = time.monotonic()
            self.line(f"step {step}/{self.num_steps}  {'  '.join(self.meter.columns(self.num_steps, self.unit))}")

    def note(self, text: str) -> None:
        self.meter.text = text

    def line(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more; training goes on
            print(text, file=sys.stderr, flush=True)


class LiveProgress(SilentProgress):
    """A bar with steps/s, loss, units/s and time left, on a terminal."""

    def __init__(self, num_steps: int, unit: str):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self.num_steps, self.unit = num_steps, unit
        self.meter = _Meter()
        self.bar = Bar(
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self.task = self.bar.add_task("", total=num_steps, numbers="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def update(self, step: int, units: int, loss: float, epoch: int) -> None:
        self.meter.update(step, units, loss, epoch)
        columns = list(self.meter.columns(self.num_steps, self.unit))
        numbers = "  ".join(columns if self.bar.console.width >= 100 else columns[1:])
        self.bar.update(self.task, completed=step, numbers=numbers)

    def note(self, text: str) -> None:
        self.meter.text = text

    def line(self, text: str) -> None:
        self.bar.console.print(text, highlight=False, markup=False)


def choose_progress(num_steps: int, unit: str, quiet: bool = False) -> Progress:
    """A live bar on a terminal, lines elsewhere, nothing if `quiet`."""
    if quiet:
        return SilentProgress()
    return LiveProgress(num_steps, unit) if sys.stderr.isatty() else PlainProgress(num_steps, unit)


class _Meter:
    """Rates since the first update of this process, and a loss smoothed over about fifty updates."""

    def __init__(self) -> None:
        self.begun = 0.0
        self.first_step: int | None = None
        self.text = ""
        self.step, self.units, self.loss, self.epoch = 0, 0, float("nan"), 0

    def update(self, step: int, units: int, loss: float, epoch: int) -> None:
        if self.first_step is None:
            self.begun, self.first_step = time.monotonic(), step
        else:
            self.units += units
        self.step, self.epoch = step, epoch
        if loss == loss:  # a NaN is reported by the guard and would never leave a mean
            self.loss = loss if self.loss != self.loss else 0.98 * self.loss + 0.02 * loss

    def columns(self, num_steps: int, unit: str) -> Iterable[str]:
        seconds = max(1e-9, time.monotonic() - self.begun)
        rate = (self.step - (self.first_step or 0)) / seconds
        left = (num_steps - self.step) / max(rate, 1e-9)
        return (
            f"epoch {self.epoch}",
            f"{rate:.1f} steps/s",
            f"loss {self.loss:.3f}",
            f"{self.units / seconds:,.0f} {unit}/s",
            f"{_clock(left)} left",
            *([self.text] if self.text else []),
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
