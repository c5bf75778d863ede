"""Speech to text: `Speech`, the task; `TrainedRecognizer`, what it gives; `check_recordings`, before training."""

from unspool.tasks.speech.check import check_recordings
from unspool.tasks.speech.listening import Listening
from unspool.tasks.speech.stream import SpeechStream
from unspool.tasks.speech.task import Speech
from unspool.tasks.speech.trained import TrainedRecognizer
