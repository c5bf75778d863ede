"""The catalogue of tasks."""

from unspool.tasks.base import BatchSource, Reading, Task
from unspool.tasks.language_modeling import LanguageModeling
from unspool.tasks.tagging import Tagging, TrainedTagger, check_files
from unspool.tasks.trained_language_model import TrainedLanguageModel

TASKS: dict[str, type[Task]] = {task.name: task for task in (LanguageModeling, Tagging)}
"""Tasks by name."""

__all__ = [
    "TASKS",
    "BatchSource",
    "LanguageModeling",
    "Reading",
    "Tagging",
    "Task",
    "TrainedLanguageModel",
    "TrainedTagger",
    "check_files",
]
