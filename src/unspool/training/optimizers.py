"""Optimizers, learning rates and averages of weights, each with a state that can be saved as plain tensors."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unspool.training.settings import TrainingSettings


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimizer of the settings; vectors (biases, norms, peepholes) are not decayed."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.beta2), foreach=False, fused=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's memory by parameter name."""
    found = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                found[f"{name}/{key}"] = torch.as_tensor(value)
    return found


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave."""
    parameters = dict(model.named_parameters())
    for full, tensor in tensors.items():
        name, _, key = full.rpartition("/")
        parameter = parameters[name]
        home = "cpu" if key == "step" and parameter.device.type == "cpu" else parameter.device
        optimizer.state[parameter][key] = tensor.clone().to(home)


class LearningRate:
    """The learning rate of every update: a linear warm-up, then a schedule.

    Cosine: Loshchilov & Hutter 2017 (arXiv 1608.03983), without restarts.
    """

    def __init__(self, settings: TrainingSettings, num_steps: int):
        self.settings, self.num_steps = settings, num_steps
        self.scale = 1.0
        self.waited = 0

    def at(self, step: int) -> float:
        """The rate of the update with this number, from 0."""
        settings, warm = self.settings, min(self.settings.warmup_steps, self.num_steps // 2)
        if step < warm:
            return settings.learning_rate * (step + 1) / (warm + 1)
        if settings.schedule != "cosine":
            return settings.learning_rate * self.scale
        share = (step - warm) / max(1, self.num_steps - warm)
        height = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        return settings.learning_rate * (settings.final_rate + (1 - settings.final_rate) * height)

    def after_validation(self, improved: bool) -> None:
        """Lowers the rate of a plateau schedule when validation has stood still long enough."""
        self.waited = 0 if improved else self.waited + 1
        if self.settings.schedule == "plateau" and self.waited > self.settings.plateau_patience:
            self.scale, self.waited = self.scale * self.settings.plateau_factor, 0

    def values(self) -> dict[str, Any]:
        """What has to be saved."""
        return {"scale": self.scale, "waited": self.waited}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Puts back what `values` gave."""
        self.scale, self.waited = values["scale"], values["waited"]


class WeightAverage:
    """An average of the weights over updates.

    Exponential (Polyak averaging with a memory); or the plain mean from the moment that validation stands still, as in
    NT-ASGD (Merity et al. 2017, arXiv 1708.02182, section 3); or the mean of the weights at the last few validations, known
    as checkpoint averaging.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings):
        self.settings = settings
        self.parameters = dict(model.named_parameters())
        self.count = 0
        self.started = settings.average == "ema"
        self.tensors: dict[str, Tensor] = {}
        self.history: list[float] = []
        self.snapshots: list[dict[str, Tensor]] = []  # checkpoints: the weights at the last validations

    @torch.no_grad()
    def update(self) -> None:
        """Takes the weights after an update into the average."""
        if not self.started or self.settings.average == "none":
            return
        self.count += 1
        if not self.tensors:
            self.tensors = {name: p.detach().clone() for name, p in self.parameters.items()}
            return
        share = 1 / self.count
        if self.settings.average == "ema":  # a short memory at first, so that the random beginning is soon forgotten
            share = max(1 - self.settings.ema_decay, 9 / (10 + self.count))
        for name, parameter in self.parameters.items():
            self.tensors[name].lerp_(parameter, share)

    @torch.no_grad()
    def before_validation(self) -> None:
        """Takes the weights into the mean of those at the last `average_checkpoints` validations."""
        if self.settings.average != "checkpoints":
            return
        self.snapshots.append({name: p.detach().clone() for name, p in self.parameters.items()})
        self.snapshots = self.snapshots[-self.settings.average_checkpoints :]
        self.tensors = {
            name: torch.stack([snapshot[name] for snapshot in self.snapshots]).mean(0) for name in self.parameters
        }

    def after_validation(self, value: float) -> None:
        """Begins a plain mean when validation was better `asgd_patience` validations ago."""
        patience = self.settings.asgd_patience
        if self.settings.average == "asgd" and not self.started and len(self.history) > patience:
            self.started = value > min(self.history[:-patience] or self.history)
        self.history.append(value)

    def swap(self) -> None:
        """Exchanges weights and average; a second call puts them back."""
        if not self.tensors:
            return
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                held = parameter.detach().clone()
                parameter.copy_(self.tensors[name])
                self.tensors[name].copy_(held)

    def all_tensors(self) -> dict[str, Tensor]:
        """All tensors that have to be saved."""
        snapshots = enumerate(self.snapshots)
        return {f"mean/{name}": t for name, t in self.tensors.items()} | {
            f"{place}/{name}": t for place, snapshot in snapshots for name, t in snapshot.items()
        }

    def values(self) -> dict[str, Any]:
        """What has to be saved beside the tensors."""
        return {"count": self.count, "started": self.started, "history": self.history, "kept": len(self.snapshots)}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `values` and `all_tensors` gave."""
        self.count, self.started, self.history = values["count"], values["started"], values["history"]

        def part(prefix: str) -> dict[str, Tensor]:
            held = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            return {name: tensor.clone().to(self.parameters[name].device) for name, tensor in held.items()}

        self.tensors = part("mean/")
        self.snapshots = [part(f"{place}/") for place in range(values["kept"])]


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
