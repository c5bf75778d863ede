"""The symbols that a recogniser writes: those of a tokenizer after the blank; and texts with times from what it has heard."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unspool.data import Tokenizer
from unspool.search.ctc import Spoken


class Word(NamedTuple):
    """A word that was heard.

    begin, end: seconds.  confidence: the geometric mean of its symbols' probabilities.
    """

    text: str
    begin: float
    end: float
    confidence: float


class Transcript(NamedTuple):
    """What was heard.

    text: all of it.  words: with times.  log_probability, score: as in `search.ctc.Spoken`, in nats.
    """

    text: str
    words: list[Word]
    log_probability: float = 0.0
    score: float = 0.0

    @property
    def confidence(self) -> float:
        """The geometric mean of the words' confidences; 1 where nothing was said."""
        logs = [math.log(max(word.confidence, 1e-30)) for word in self.words]
        return math.exp(sum(logs) / len(logs)) if logs else 1.0


class Alphabet:
    """Text to numbers and back; 0 is the blank.

    Args:
        tokenizer: of characters or byte-pair pieces.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return self.tokenizer.vocabulary_size + 1

    def encode(self, text: str) -> list[int]:
        """The numbers of a text."""
        return [number + 1 for number in self.tokenizer.encode(tidy(text))]

    def decode(self, numbers: Sequence[int]) -> str:
        """The text of numbers."""
        return self.tokenizer.decode([number - 1 for number in numbers])

    def pieces(self) -> list[str]:
        """The text of each symbol, the blank's empty."""
        return ["", *(self.tokenizer.decode([number]) for number in range(self.tokenizer.vocabulary_size))]

    def transcript(self, spoken: Spoken, step_seconds: float, begin: float = 0.0) -> Transcript:
        """Text and words of what a search has found; `begin`: seconds before its first step."""
        words = [
            Word(
                text,
                begin + spoken.steps[first] * step_seconds,
                begin + (spoken.steps[last - 1] + 1) * step_seconds,
                math.exp(sum(math.log(max(c, 1e-30)) for c in spoken.chances[first:last]) / (last - first)),
            )
            for text, first, last in self._words(spoken.symbols)
        ]
        text = " ".join(self.decode(spoken.symbols).split())
        return Transcript(text, words, spoken.log_probability, spoken.score)

    def _words(self, symbols: Sequence[int]) -> Iterator[tuple[str, int, int]]:
        """Words with their first symbol and the one after their last: symbols belong to the word that they end or begin."""
        first, text = 0, ""
        for place in range(len(symbols)):
            whole = self.decode(symbols[first : place + 1])
            if len(whole.split()) > 1 or (text.split() and whole[-1:].isspace()):
                yield text.strip(), first, place
                first = place
                whole = self.decode(symbols[first : place + 1])
            if not whole.strip():
                first, whole = place + 1, ""
            text = whole
        if text.strip():
            yield text.strip(), first, len(symbols)


def tidy(text: str) -> str:
    """Text with single blanks between words and none around."""
    return " ".join(text.split())


def join(transcripts: Sequence[Transcript]) -> Transcript:
    """One transcript of parts that follow each other."""
    text = " ".join(part.text for part in transcripts if part.text)
    words = [word for part in transcripts for word in part.words]
    return Transcript(text, words, sum(p.log_probability for p in transcripts), sum(p.score for p in transcripts))
