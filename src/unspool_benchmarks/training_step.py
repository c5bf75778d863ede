"""Whole training steps of models: forward, loss, backward, clipping, update; ours against plain torch.nn."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unspool_benchmarks.case import BF16_TOLERANCE, FP32_TOLERANCE, Contender, Numbers
from unspool_benchmarks.contenders import autocast, to_numpy

_LEARNING_RATE, _LARGEST_NORM = 0.01, 0.25


class TrainingStep:
    """A model's step of stochastic gradient descent with clipping.

    Args:
        loss: the mean loss of the case's batch.
        parameters: by names that are the same for all contenders.
        bf16: forward under autocast.
    """

    def __init__(self, loss: Callable[[], Tensor], parameters: Mapping[str, Tensor], bf16: bool = False):
        self.loss, self.parameters, self.bf16 = loss, parameters, bf16
        self.optimizer = torch.optim.SGD(parameters.values(), lr=_LEARNING_RATE)

    def contender(self, name: str) -> Contender:
        """The step for the clock, and loss and gradients at the weights of this moment for the check."""
        return Contender(name, self.run, self.numbers, BF16_TOLERANCE if self.bf16 else FP32_TOLERANCE)

    def run(self) -> None:
        """One update."""
        self._backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), _LARGEST_NORM)
        self.optimizer.step()

    def numbers(self) -> Numbers:
        """Loss and gradients, without an update."""
        loss = self._backward()
        gradients: dict[str, Any] = {
            name: to_numpy(parameter.grad) for name, parameter in self.parameters.items() if parameter.grad is not None
        }
        return {"loss": to_numpy(loss), **gradients}

    def _backward(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.bf16):
            loss = self.loss()
        loss.backward()
        return loss
