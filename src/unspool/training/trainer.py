"""The trainer: updates, guards, validation and checkpoints, for any model that knows its loss.

A run is a function of its settings and data alone. All that it depends on between two updates (weights, optimizer,
average, schedule, carried state, random generator, place in the data, what validation has said) is in the checkpoint,
so that a run killed anywhere and resumed ends with the same bits as one never killed.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unspool.checkpoint import LAST, METRICS, WEIGHTS
from unspool.diagnostics import KnownTraining
from unspool.errors import CheckpointError, ConfigError, DivergenceError
from unspool.state import detach_state, is_finite, map_state, state_tensors
from unspool.tasks import Task
from unspool.tensor_file import load_tensors, parameters_of, restore_parameters, save_tensors
from unspool.training.interruption import StopSignal
from unspool.training.metrics import MetricsLog
from unspool.training.optimizers import (
    LearningRate,
    WeightAverage,
    build_optimizer,
    gradient_norm,
    optimizer_tensors,
    restore_optimizer,
)
from unspool.training.progress import choose_progress
from unspool.training.settings import TrainingSettings
from unspool.training.watching import GradientWatch


@dataclass
class Counters:
    """Where a run stands."""

    step: int = 0  # updates tried so far, those not applied included
    epoch: int = 0
    index: int = 0  # of the next batch in the epoch
    skipped: int = 0
    skipped_in_a_row: int = 0
    clipped: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_step: int = 0
    validations_since_best: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended: with all its updates done, by early stopping, or interrupted and ready to be resumed."""

    step: int
    finished: bool
    best: float
    best_step: int
    seconds: float


class Trainer:
    """One run in one folder.

    Args:
        task: gives model, batches and validation.
        settings: how to fit.
        folder: a model folder; checkpoints and metrics are written there.
        quiet: report nothing on standard error.
    """

    def __init__(self, task: Task, settings: TrainingSettings, folder: Path, quiet: bool = False):
        if settings.threads:
            torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        self.task, self.settings, self.folder = task, settings, folder
        self.device = find_device(settings.device)
        self.model: Any = task.build_model().to(self.device)
        self.batches = task.training_batches(settings.seed)
        epochs = settings.epochs or task.epochs(len(self.batches))
        self.num_steps = min(epochs * len(self.batches), settings.max_steps or 10**12)
        self.optimizer = build_optimizer(self.model, settings)
        self.rate = LearningRate(settings, self.num_steps)
        self.average = WeightAverage(self.model, settings)
        self.counters = Counters()
        self.state: Any = None
        self.progress = choose_progress(self.num_steps, task.unit, quiet)
        self.metrics = MetricsLog(folder / METRICS, settings.tensorboard)
        known = KnownTraining(clip=settings.gradient_clip, learning_rate=settings.learning_rate)
        self.watch = GradientWatch(self.model, known) if settings.watch_gradients else None

    def resume(self) -> bool:
        """Goes back to the last checkpoint of the folder, if there is one.

        Raises:
            CheckpointError: the checkpoint is damaged.
        """
        path = self.folder / LAST
        if not path.exists():
            if (self.folder / WEIGHTS).exists():
                raise CheckpointError(
                    f"{path}: no such file, though the folder holds weights; they are kept. Train in another folder."
                )
            self.metrics.truncate(0)
            return False
        stored = load_tensors(path)
        try:
            self._restore(stored.tensors, stored.values, str(path))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: the file is damaged ({error!r}).") from error
        return True

    def run(self) -> Outcome:
        """Trains to the end, or until the process is asked to stop; the folder then holds the last state.

        Raises:
            DivergenceError: too many updates in a row were not finite; the folder holds the last state that was.
        """
        saved = time.monotonic()
        with StopSignal() as stop, self.progress, self.metrics:
            while not self.counters.finished and not stop.received:
                validated = self.advance()
                due = validated or time.monotonic() - saved > self.settings.checkpoint_seconds
                if due and self._is_sound():
                    self.save()
                    saved = time.monotonic()
            if self._is_sound():
                self.save()
            elif self.counters.finished:
                raise DivergenceError(self._diagnosis("the last update was not finite"))
            if not (self.folder / WEIGHTS).exists():  # stopped before the first validation
                self.average.swap()
                self._save_weights()
                self.average.swap()
        counters = self.counters
        return Outcome(counters.step, counters.finished, counters.best, counters.best_step, counters.seconds)

    def advance(self) -> bool:
        """One update, and a validation where one is due; returns whether there was one."""
        began = time.monotonic()
        self._update()
        validates = self._due_validation() or self.counters.finished
        if validates:
            self._validate()
        self.counters.seconds += time.monotonic() - began
        return validates

    def save(self) -> None:
        """Writes the whole training state."""
        tensors = {f"model/{name}": t for name, t in parameters_of(self.model).items()}
        tensors |= {f"optimizer/{name}": t for name, t in optimizer_tensors(self.optimizer, self.model).items()}
        tensors |= {f"average/{name}": t for name, t in self.average.all_tensors().items()}
        if self.state is not None:
            tensors |= {f"state/{place}": t.clone() for place, t in enumerate(state_tensors(self.state))}
        tensors["random"] = torch.get_rng_state()
        if self.device.type != "cpu":
            tensors["random_device"] = torch.get_device_module(self.device).get_rng_state()
        values = {
            "counters": vars(self.counters),
            "rate": self.rate.values(),
            "average": self.average.values(),
            "metrics": self.metrics.position(),
        }
        save_tensors(self.folder / LAST, tensors, values)

    def _update(self) -> None:
        counters, settings, began = self.counters, self.settings, time.monotonic()
        clipped = counters.clipped
        batch = self.batches.batch(counters.epoch, counters.index).to(self.device)
        state = self.state if counters.index else None
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            loss = self.model.loss(batch, state)
        mean = loss.sum / max(1, loss.count)
        (mean + loss.penalty).backward()
        norm = float(gradient_norm(self.model.parameters()))
        value, rate = float(mean.detach()), self.rate.at(counters.step)
        carried = detach_state(loss.state)
        if math.isfinite(value) and math.isfinite(norm):
            self._apply(norm, rate)
            self.state, counters.skipped_in_a_row = carried, 0
        else:
            self._skip(value, norm)
            self.state = carried if is_finite(carried) else self.model.initial_state(self.batches.batch_size)
        self._advance()
        if self.watch is not None and self.watch.count_update(time.monotonic() - began, counters.clipped > clipped):
            self._look(batch, state, norm)
        self.progress.update(counters.step, loss.count, value, counters.epoch)
        if counters.step % settings.report_steps == 0 or counters.finished:
            self.metrics.write(
                "train", step=counters.step, epoch=counters.epoch, loss=value, learning_rate=rate, gradient_norm=norm,
                clipped=counters.clipped, skipped=counters.skipped, seconds=round(counters.seconds, 2),
            )  # fmt: skip
        if counters.skipped_in_a_row >= settings.nonfinite_limit:
            what = f"loss {value}" if not math.isfinite(value) else f"gradient norm {norm}"
            raise DivergenceError(
                self._diagnosis(
                    f"{counters.skipped_in_a_row} updates in a row were not finite (step {counters.step}: {what})"
                )
            )

    def _look(self, batch: Any, state: Any, norm: float) -> None:
        assert self.watch is not None
        seen = self.watch.look(batch.last_step(), state, norm)
        if seen.summary:
            self.progress.note(seen.summary)
            self.metrics.write("gradients", step=self.counters.step, **seen.values)
        for line in seen.news:
            self.progress.line(f"step {self.counters.step}: {line}")

    def _apply(self, norm: float, rate: float) -> None:
        clip = self.settings.gradient_clip
        if clip and norm > clip:
            self.counters.clipped += 1
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(clip / norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.average.update()

    def _skip(self, value: float, norm: float) -> None:
        self.counters.skipped += 1
        self.counters.skipped_in_a_row += 1
        what = f"loss {value}" if not math.isfinite(value) else f"gradient norm {norm}"
        self.progress.line(f"step {self.counters.step + 1}: {what} is not finite; this update was not applied.")

    def _advance(self) -> None:
        counters = self.counters
        counters.step, counters.index = counters.step + 1, counters.index + 1
        if counters.index == len(self.batches):
            counters.epoch, counters.index = counters.epoch + 1, 0
        counters.finished = counters.step >= self.num_steps

    def _due_validation(self) -> bool:
        per_epoch = min(self.settings.validations_per_epoch, len(self.batches))
        within = self.counters.step % len(self.batches)
        return within in {round(len(self.batches) * part / per_epoch) % len(self.batches) for part in range(per_epoch)}

    def _validate(self) -> None:
        counters, settings = self.counters, self.settings
        self.average.before_validation()
        self.average.swap()
        values = self.task.validate(self.model)
        if values is None:
            self._save_weights()
            self.average.swap()
            return
        value = values[self.task.criterion]
        improved = value < counters.best
        if improved:
            counters.best, counters.best_step, counters.validations_since_best = value, counters.step, 0
            self._save_weights()
        else:
            counters.validations_since_best += 1
        self.average.swap()
        self.average.after_validation(value)
        self.rate.after_validation(improved)
        self.metrics.write("validation", step=counters.step, epoch=counters.epoch, **values)
        mark = "  (best so far)" if improved else ""
        shown = "  ".join(f"{name} {number:.4f}" for name, number in values.items() if isinstance(number, float))
        self.progress.line(f"step {counters.step}, epoch {counters.epoch}: validation {shown}{mark}")
        if settings.patience and counters.validations_since_best >= settings.patience:
            counters.finished = True
            self.progress.line(f"stopping early: no improvement in {settings.patience} validations.")

    def _save_weights(self) -> None:
        save_tensors(self.folder / WEIGHTS, parameters_of(self.model), {"step": self.counters.step})

    def _restore(self, tensors: dict[str, Tensor], values: dict[str, Any], where: str) -> None:
        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name + "/"): t for key, t in tensors.items() if key.startswith(name + "/")}

        restore_parameters(self.model, part("model"), where)
        restore_optimizer(self.optimizer, self.model, part("optimizer"))
        self.average.restore(values["average"], part("average"))
        self.rate.restore(values["rate"])
        self.counters = Counters(**values["counters"])
        carried = part("state")
        if carried:
            ordered = iter([carried[str(place)].to(self.device) for place in range(len(carried))])
            self.state = map_state(lambda _: next(ordered), self.model.initial_state(self.batches.batch_size))
        torch.set_rng_state(tensors["random"])
        if self.device.type != "cpu" and "random_device" in tensors:  # it may have begun on a CPU
            torch.get_device_module(self.device).set_rng_state(tensors["random_device"])
        self.metrics.truncate(values["metrics"])

    def _is_sound(self) -> bool:
        """Whether the last update was applied and left finite weights, so that they are worth keeping."""
        finite = (bool(p.isfinite().all()) for p in self.model.parameters())
        return self.counters.skipped_in_a_row == 0 and all(finite)

    def _diagnosis(self, what: str) -> str:
        bad = [n for n, p in self.model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
        where = f", first in the gradient of {bad[0]}" if bad else ""
        rate, clip = self.rate.at(self.counters.step), self.settings.gradient_clip
        kept = "The last checkpoint is kept" if (self.folder / LAST).exists() else "No checkpoint was written yet"
        return (
            f"training diverged: {what}{where}; learning rate {rate:.3g}, clipping at {clip or 'no norm'}. {kept}; "
            f"try --learning-rate {rate / 4:.2g}{'' if clip else ' or --gradient-clip 1'} in a new folder."
        )


def find_device(name: str) -> torch.device:
    """A device that can be used here.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError("expected cpu, cuda, mps or xpu")
        torch.empty(1, device=device)
        if device.index and device.type in ("cuda", "xpu"):  # whose random state is the current device's
            torch.get_device_module(device).set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}).") from error
    return device


def model_size(model: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in model.parameters())
