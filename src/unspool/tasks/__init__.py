"""The catalogue of tasks."""

from unspool.tasks.base import BatchSource, Reading, Task
from unspool.tasks.checked import Checked
from unspool.tasks.language_modeling import LanguageModeling
from unspool.tasks.prediction import predict
from unspool.tasks.speech import Listening, Speech, TrainedRecognizer, check_recordings
from unspool.tasks.tagging import Tagging, TrainedTagger, check_files
from unspool.tasks.trained_language_model import TrainedLanguageModel
from unspool.tasks.translation import TrainedTranslator, Translation, check_pairs

TASKS: dict[str, type[Task]] = {task.name: task for task in (LanguageModeling, Tagging, Translation, Speech)}
"""Tasks by name."""
