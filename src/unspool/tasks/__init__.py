"""The catalogue of tasks."""

from unspool.tasks.base import BatchSource, Task
from unspool.tasks.language_modeling import LanguageModeling, TrainedLanguageModel

TASKS: dict[str, type[Task]] = {LanguageModeling.name: LanguageModeling}
"""Tasks by name."""

__all__ = ["TASKS", "BatchSource", "LanguageModeling", "Task", "TrainedLanguageModel"]
