"""What a task is: it knows files, vocabularies and metrics, and builds a model for them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from torch import nn


class BatchSource(Protocol):
    """All batches of an epoch, each a pure function of its place, so that a run can go on from anywhere."""

    batch_size: int

    def __len__(self) -> int: ...

    def batch(self, epoch: int, index: int) -> Any: ...


class Reading(NamedTuple):
    """What a diagnosis lets a model read.

    batch: sequences; its `last_step` is the same batch with the loss of the last step alone.
    words: what was read, for people: how many sequences of how many steps.
    symbols: what the first sequence reads at each step, for people; empty where that is no text.
    truncation: steps after which training cuts gradients.
    layers: how the names of the layers begin that read the symbols, one a step.
    """

    batch: Any
    words: str
    symbols: list[str]
    truncation: int | None
    layers: str = ""


class Task(ABC):
    """One kind of work on one kind of data.

    Attributes:
        name: as the command line and model folders know it.
        sections: its settings by section.
        unit: what progress and losses are counted in.
        criterion: the key of `validate` that training minimizes.
        inputs: the flags of the command line that make up what `evaluate` reads, tabs between their values.
    """

    name: ClassVar[str]
    sections: ClassVar[Mapping[str, type[Any]]]
    unit: str
    criterion: str
    inputs: ClassVar[tuple[str, ...]] = ("data",)

    @classmethod
    @abstractmethod
    def prepare(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        """Reads the user's data and writes into the folder all that training and prediction need of it.

        Raises:
            DataError: the data cannot be used.
        """

    @classmethod
    @abstractmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        """The task as `prepare` left it in a folder.

        Raises:
            CheckpointError: something is missing or damaged.
        """

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A model with fresh weights."""

    @abstractmethod
    def training_batches(self, seed: int) -> BatchSource:
        """The training data, in an order that the seed decides."""

    def epochs(self, num_batches: int) -> int:
        """How often to go through the training data where the user does not say."""
        return 10

    @abstractmethod
    def validate(self, model: Any) -> dict[str, float] | None:
        """Metrics on the validation data; None where there is none."""

    @abstractmethod
    def evaluate(self, model: Any, data: str) -> dict[str, Any]:
        """Metrics on data of the user's."""

    def summary(self, values: dict[str, Any]) -> list[str]:
        """The figures among the metrics of `evaluate`, as lines for people."""
        return [
            f"{name:20s} {value:,.4f}" if isinstance(value, float) else f"{name:20s} {value:,}"
            for name, value in values.items()
            if isinstance(value, (int, float))
        ]

    @abstractmethod
    def reading(self, data: str, num_steps: int, num_sequences: int) -> Reading:
        """Sequences from data of the user's, or from one of the run's own splits, for a diagnosis.

        Raises:
            DataError: the data cannot be used, or is too short.
        """

    @abstractmethod
    def predictor(self, model: Any) -> Any:
        """The trained model as a user holds it."""
