"""Training: updates, learning rates, averages, guards, checkpoints, progress."""

from unspool.training.metrics import typical_gradient_norm
from unspool.training.progress import LiveProgress, PlainProgress, SilentProgress, choose_progress
from unspool.training.settings import SECTIONS, TrainingSettings
from unspool.training.trainer import Outcome, Trainer, find_device, model_size
