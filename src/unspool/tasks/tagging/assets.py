"""What a tagger knows of its language, and how sentences become numbers."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from unspool.data import Vocabulary
from unspool.data.batching import IGNORED
from unspool.data.spans import detect_scheme, may_follow, spans_of, split_tag, tags_of
from unspool.errors import CheckpointError, ConfigError
from unspool.models.crf import CRF
from unspool.models.tagger import TaggingBatch

_BEGIN, _END = "\x02", "\x03"  # of a spelling; words hardly hold them
_LONGEST = 60  # characters of a spelling; of a longer one the first and the last thirty are read
FILE = "vocabulary.json"


@dataclass(frozen=True)
class Target:
    """A column to predict.

    Attributes:
        name: of the column.
        tags: what is learned, in the order of their numbers.
        scheme: of spans in files; None for tags of words.
        learned: the scheme of `tags`.
    """

    name: str
    tags: tuple[str, ...]
    scheme: str | None
    learned: str

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each tag."""
        return {tag: number for number, tag in enumerate(self.tags)}

    @classmethod
    def found(cls, name: str, columns: Sequence[Sequence[str]], learned: str) -> Self:
        """A target as training sentences show it."""
        every = sorted({tag for column in columns for tag in column})
        scheme = detect_scheme(columns)
        if scheme:
            labels = sorted({split_tag(tag)[1] for tag in every} - {""})
            marks = "BIES" if learned == "bioes" else "BI"
            every = ["O", *(f"{mark}-{label}" for label in labels for mark in marks)]
        return cls(name, tuple(every), scheme, learned)

    def encode(self, tags: Sequence[str]) -> list[int]:
        """The numbers of a sentence's tags; `IGNORED` for those that training did not show."""
        if self.scheme:  # also where both are the same, since what contradicts a scheme cannot be learned
            tags = tags_of(spans_of(tags), len(tags), self.learned)
        return [self.numbers.get(tag, IGNORED) for tag in tags]

    def decode(self, numbers: Sequence[int]) -> list[str]:
        """Tags as files write them."""
        tags = [self.tags[number] for number in numbers]
        return tags_of(spans_of(tags), len(tags), self.scheme) if self.scheme else tags

    def build_crf(self, crf: str) -> CRF:
        """How the tags of this target depend on each other."""
        learned = crf == "all" or (crf == "spans" and self.scheme is not None)
        if self.scheme is None:
            return CRF(len(self.tags), learned=learned)
        return CRF(len(self.tags), self._may_follow, learned)

    def _may_follow(self, before: int | None, after: int | None) -> bool:
        tags = [None if number is None else self.tags[number] for number in (before, after)]
        return may_follow(tags[0], tags[1], self.learned)


@dataclass(frozen=True)
class Assets:
    """What training has shown.

    Attributes:
        words: in lower case, those that have an embedding.
        counts: how often training shows each of them.
        rare: words, in lower case, that occur too rarely for that.
        characters: of all words.
        targets: the columns to predict.
    """

    words: Vocabulary
    counts: tuple[int, ...]
    rare: frozenset[str]
    characters: Vocabulary
    targets: tuple[Target, ...]

    @classmethod
    def build(
        cls, forms: Sequence[Sequence[str]], columns: Mapping[str, Sequence[Sequence[str]]], min_count: int, scheme: str
    ) -> Self:
        """From the words of training sentences, and their tags by target."""
        counts = Counter(word.lower() for form in forms for word in form)
        words = Vocabulary.from_counts(counts, min_count)
        often = Counter(c for form in forms for word in form for c in word)
        characters = {c for c, n in often.items() if n > 1} - {
            _BEGIN,
            _END,
        }  # those that occur once stand for the unknown
        targets = (Target.found(name, column, scheme) for name, column in columns.items())
        rare = frozenset(counts) - frozenset(words.symbols)
        known = tuple(counts[word] for word in words.symbols[1:])
        return cls(words, known, rare, Vocabulary([_BEGIN, _END, *sorted(characters)]), tuple(targets))

    def save(self, folder: Path) -> None:
        """Writes them into a model folder."""
        stored = {
            "words": self.words.symbols[1:],
            "counts": self.counts,
            "rare": sorted(self.rare),
            "characters": self.characters.symbols[1:],
            "targets": [asdict(target) for target in self.targets],
        }
        (folder / FILE).write_text(json.dumps(stored, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        path = folder / FILE
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            _check(stored)
            targets = tuple(Target(**{**one, "tags": tuple(one["tags"])}) for one in stored["targets"])
            return cls(
                Vocabulary(stored["words"]),
                tuple(stored["counts"]),
                frozenset(stored["rare"]),
                Vocabulary(stored["characters"]),
                targets,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); the model folder is damaged.") from error

    def has_seen(self, word: str) -> bool:
        """Whether training showed the word, in any case of its letters."""
        return self.words.number(word.lower()) > 0 or word.lower() in self.rare

    def batch(
        self,
        sentences: Sequence[Sequence[str]],
        tags: Sequence[Sequence[Sequence[int]]] = (),
        features: torch.Tensor | None = None,
    ) -> TaggingBatch:
        """Sentences side by side.

        Args:
            sentences: their words.
            tags: for each target the numbers of the tags of each sentence.
            features: [T, B, F] features of the words from elsewhere.
        """
        lengths = np.array([len(sentence) for sentence in sentences])
        shape = int(lengths.max()), len(sentences)
        spellings: dict[str, int] = {}
        flat = [spellings.setdefault(word, len(spellings)) for sentence in sentences for word in sentence]
        numbers = np.array([self.words.number(spelling.lower()) + 1 for spelling in spellings])
        steps, rows = _places(lengths)
        words, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        types[steps, rows] = flat
        words[steps, rows] = numbers[flat]
        targets = np.full((len(self.targets), *shape), IGNORED)
        for k, columns in enumerate(tags):
            targets[k, steps, rows] = [tag for column in columns for tag in column]
        characters, spelling_lengths = self._spell(list(spellings))
        arrays = map(torch.from_numpy, (words, lengths, types, characters, spelling_lengths, targets))
        return TaggingBatch._make([*arrays, torch.zeros(*shape, 0) if features is None else features])

    def _spell(self, spellings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        numbers = self.characters.numbers
        begin, end = numbers[_BEGIN] + 1, numbers[_END] + 1
        half = _LONGEST // 2
        spellings = [s if len(s) <= _LONGEST else s[:half] + s[-half:] for s in spellings]
        lengths = np.array([len(spelling) + 2 for spelling in spellings])
        characters = np.zeros((int(lengths.max()), len(spellings)), np.int64)
        steps, rows = _places(lengths)
        characters[steps, rows] = [
            c for spelling in spellings for c in (begin, *[numbers.get(c, 0) + 1 for c in spelling], end)
        ]
        return characters, lengths


def _check(stored: dict[str, Any]) -> None:
    """Refuses what JSON allows and `Assets.save` never writes."""
    tags = [tag for target in stored["targets"] for tag in target["tags"]]
    if not all(isinstance(text, str) for text in (*stored["words"], *stored["characters"], *stored["rare"], *tags)):
        raise ValueError("words, characters and tags must be text")
    counts = stored["counts"]
    if len(counts) != len(stored["words"]) or not all(isinstance(n, int) and n > 0 for n in counts):
        raise ValueError("counts must be one positive number for each word")
    if not {_BEGIN, _END} <= {*stored["characters"]} or not tags:
        raise ValueError("characters or tags are missing")


def _places(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Step and row of every unit of sequences that lie one after the other."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    begins = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - begins[rows], rows
