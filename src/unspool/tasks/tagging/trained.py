"""A trained tagger as a user holds it: it tags words, sentences, files and plain text."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from unspool.config import require
from unspool.data.columns import Sentence, blank_sentence, check
from unspool.data.plain_text import split_text
from unspool.errors import DataError
from unspool.files import in_portions, read_lines
from unspool.tasks.tagging.files import sentences_of
from unspool.tasks.tagging.task import Tagging

_AT_ONCE = 2000  # sentences read before they are tagged


class TrainedTagger:
    """A tagger as a user holds it.

    Attributes:
        task: its data settings and what it knows of its language.
        model: the network, in evaluation mode.
    """

    def __init__(self, task: Tagging, model: Any):
        self.task, self.model = task, model.eval()

    def tag(self, words: Sequence[str]) -> list[dict[str, str]]:
        """The tags of a sentence's words, by target.

        Raises:
            DataError: a word is empty or no text.
        """
        found = self.task.predict(self.model, [_checked(words)])
        names = [target.name for target in self.task.assets.targets]
        return [dict(zip(names, tags, strict=True)) for tags in zip(*(own[0] for own in found), strict=True)]

    def nbest(self, words: Sequence[str], count: int = 5) -> dict[str, list[tuple[list[str], float]]]:
        """For each target the likeliest ways to tag a sentence, the likeliest first: tags, and their probability.

        Raises:
            DataError: a word is empty or no text.
            ConfigError: count is below 1.
        """
        require(isinstance(count, int) and count >= 1, "count", count, "an integer of at least 1")
        found = self.task.decode(self.model, [_checked(words)], count)
        return {target.name: own[0] for target, own in zip(self.task.assets.targets, found, strict=True)}

    def predict_file(self, source: str, skip_bad: bool = False) -> Iterator[str]:
        """The text of a file with its target columns predicted and all else as it was, some sentences at a time.

        Raises:
            DataError: a line is malformed; with `skip_bad` such a sentence is passed on as it is.
        """
        for portion in in_portions(self._sentences(source, skip_bad), _AT_ONCE):
            yield self._tagged(portion)

    def predict_text(self, source: str) -> Iterator[str]:
        """Plain text as sentences in columns, words and tags; a line break ends a sentence.

        Raises:
            DataError: the text cannot be read, or is not UTF-8.
        """
        for portion in in_portions(self._text(source), _AT_ONCE):
            yield self._tagged([blank_sentence(words, self.task.format) for words in portion])

    def predict_nbest(self, source: str, count: int, is_text: bool = False, skip_bad: bool = False) -> Iterator[str]:
        """A line of JSON for each sentence: its words, and for each target its likeliest ways with probabilities.

        A malformed sentence that is skipped, and one without words, has a line without words.

        Raises:
            DataError: as in `predict_file` and `predict_text`.
            ConfigError: count is below 1.
        """
        require(count >= 1, "n_best", count, "at least 1")
        words = self._text(source) if is_text else map(self._words, self._sentences(source, skip_bad))
        return self._nbest_lines(words, count)

    def _nbest_lines(self, words: Iterator[list[str]], count: int) -> Iterator[str]:
        for portion in in_portions(words, _AT_ONCE):
            found = self.task.decode(self.model, portion, count)
            for b, own in enumerate(portion):
                targets = {
                    target.name: [{"tags": tags, "probability": p} for tags, p in ways[b]]
                    for target, ways in zip(self.task.assets.targets, found, strict=True)
                    if own
                }
                yield json.dumps({"words": own, **targets}, ensure_ascii=False) + "\n"

    def evaluate(self, data: str) -> dict[str, Any]:
        """Figures on a file; see `Tagging.evaluate`."""
        return self.task.evaluate(self.model, data)

    def _sentences(self, source: str, skip_bad: bool) -> Iterator[Sentence]:
        sentences = sentences_of(source, self.task.format.words_alone())
        return sentences if skip_bad else map(check, sentences)

    def _text(self, source: str) -> Iterator[list[str]]:
        known = self.task.assets.words.numbers.keys() | self.task.assets.rare
        for line in read_lines(source):
            yield from split_text(line, known)

    def _words(self, sentence: Sentence) -> list[str]:
        return sentence.column(self.task.form) if sentence.rows else []

    def _tagged(self, sentences: Sequence[Sentence]) -> str:
        tags = self.task.predict(self.model, [self._words(sentence) for sentence in sentences])
        columns = [dict(zip(self.task.places, own, strict=True)) for own in zip(*tags, strict=True)]
        separator = self.task.format.separator
        return "".join(s.replaced(own, separator) for s, own in zip(sentences, columns, strict=True))


def _checked(words: Sequence[str]) -> Sequence[str]:
    words = words if isinstance(words, str) else list(words)
    if isinstance(words, str) or not all(isinstance(word, str) and word for word in words):
        raise DataError(f"expected a list of words that are not empty, got {words!r}.")
    if any("\ud800" <= character <= "\udfff" for word in words for character in word):
        raise DataError(f"expected words of Unicode characters, got half of one (a surrogate) in {words!r}.")
    return words
