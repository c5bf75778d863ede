"""Translation: line-aligned files to a translator."""

from unspool.tasks.translation.check import check_pairs
from unspool.tasks.translation.task import Translation
from unspool.tasks.translation.trained import TrainedTranslator
