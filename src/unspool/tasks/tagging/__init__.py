"""Tagging: parts of speech, morphological features, chunks, names, on anybody's files."""

from unspool.tasks.tagging.check import check_files
from unspool.tasks.tagging.task import Tagging
from unspool.tasks.tagging.trained import TrainedTagger
