"""Tagging: sentences in columns in, a model of their tags, the same files with predicted columns out."""

import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import torch

from unspool import initializers
from unspool.cells import Cell, find_cell
from unspool.config import check_choices, require, setting
from unspool.data import Vocabulary
from unspool.data.batching import IGNORED
from unspool.data.buckets import Buckets
from unspool.data.columns import Sentence, check, parse_format, read_sentences
from unspool.errors import CheckpointError, ConfigError, DataError
from unspool.models.tagger import Tagger, TaggingBatch
from unspool.tasks.base import BatchSource, Reading, Task

_BEGIN, _END = "\x02", "\x03"  # of a spelling; no text holds them
_PREDICTED_WORDS = 8000  # of a batch in prediction, padding included


@dataclass(frozen=True)
class TaggingData:
    """Which files, and what of them is to be predicted."""

    train: str = setting("", "training sentences, in columns; .gz is unpacked")
    dev: str = setting("", "validation sentences, in the same columns")
    format: str = setting("conllu", "conllu, or columns such as form=0,pos=1,ner=3 (and tab, where tabs separate)")
    targets: str = setting("upos,xpos,feats", "columns to predict, by name")
    min_count: int = setting(2, "words that occur less often are known by their spelling alone")
    batch_words: int = setting(1500, "words of a batch, padding included")
    skip_bad: bool = setting(False, "leave out sentences with a malformed line, and count them")

    def __post_init__(self) -> None:
        require(bool(self.train), "train", self.train, "a file with sentences")
        for name in ("min_count", "batch_words"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        columns = parse_format(self.format)
        for target in self.target_names:
            columns.place(target)

    @property
    def target_names(self) -> tuple[str, ...]:
        """The columns to predict."""
        return tuple(name.strip() for name in self.targets.split(","))


@dataclass(frozen=True)
class TaggerSettings:
    """Which network."""

    cell: str = setting("lstm", "a cell of the catalogue, or your_module:YourCell")
    hidden_size: int = setting(256, "units of each layer and direction")
    num_layers: int = setting(2, "bidirectional layers")
    embedding_size: int = setting(100, "features of a word")
    character_size: int = setting(64, "features of a character")
    spelling_size: int = setting(128, "features of a word's spelling")
    dropout: float = setting(0.4, "of features, locked over a sentence")
    word_dropout: float = setting(0.2, "probability that a word is read by its spelling alone")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("hidden_size", "num_layers", "embedding_size", "character_size", "spelling_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("dropout", "word_dropout"):
            require(0.0 <= getattr(self, name) < 1.0, name, getattr(self, name), "at least 0 and below 1")

    def build_cell(self, input_size: int, hidden_size: int) -> Cell:
        """A cell with orthogonal recurrent matrices and an open gate, where it has them."""
        cell: Any = find_cell(self.cell)(input_size, hidden_size)
        if cell.weight_hh is not None and cell.weight_hh.shape[-1] == hidden_size:
            initializers.orthogonal_(cell)
        if cell.keeping_gate and cell.bias_ih is not None:
            initializers.forget_bias_(cell, 1.0)
        return cell


@dataclass(frozen=True)
class Assets:
    """What a tagger knows of its language: words in lower case, characters, and the tags of each target."""

    words: Vocabulary
    characters: Vocabulary
    tags: Mapping[str, tuple[str, ...]]

    @cached_property
    def tag_numbers(self) -> list[dict[str, int]]:
        """The number of each tag, by target."""
        return [{tag: number for number, tag in enumerate(known)} for known in self.tags.values()]

    def batch(self, sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[Sequence[str]]] = ()) -> TaggingBatch:
        """Sentences side by side; `tags` holds for each target a tag for each word of each sentence."""
        shape = max(map(len, sentences)), len(sentences)
        words, types = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        targets = torch.full((len(self.tags), *shape), IGNORED)
        spellings: dict[str, int] = {}
        for b, sentence in enumerate(sentences):
            numbers = [self.words.number(word.lower()) + 1 for word in sentence]
            words[: len(sentence), b] = torch.tensor(numbers)
            places = [spellings.setdefault(word, len(spellings)) for word in sentence]
            types[: len(sentence), b] = torch.tensor(places)
        for k, (numbers_of, column) in enumerate(zip(self.tag_numbers, tags, strict=False)):
            for b, own in enumerate(column):
                targets[k, : len(own), b] = torch.tensor([numbers_of.get(tag, IGNORED) for tag in own])
        lengths = torch.tensor([len(spelling) + 2 for spelling in spellings])
        characters = torch.zeros((int(lengths.max()), len(spellings)), dtype=torch.long)
        for u, spelling in enumerate(spellings):
            marked = (_BEGIN, *spelling, _END)
            characters[: len(marked), u] = torch.tensor([self.characters.number(c) + 1 for c in marked])
        return TaggingBatch(words, torch.tensor([len(s) for s in sentences]), types, characters, lengths, targets)


class Tagging(Task):
    """Predicting a tag for each word of a sentence: parts of speech, features, chunks, names."""

    name = "tagging"
    sections = {"data": TaggingData, "model": TaggerSettings}
    unit = "words"
    criterion = "error"

    def __init__(self, settings: Mapping[str, Any], assets: Assets, folder: Path):
        self.data: TaggingData = settings["data"]
        self.model: TaggerSettings = settings["model"]
        self.assets, self.folder = assets, folder
        self.format = parse_format(self.data.format)
        self.places = tuple(self.format.place(name) for name in self.data.target_names)

    @classmethod
    def prepare(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        data: TaggingData = settings["data"]
        kind = parse_format(data.format)
        (folder / "tokens").mkdir(exist_ok=True)
        words, characters = Counter[str](), Counter[str]()
        tags = {name: Counter[str]() for name in data.target_names}
        for split, source in (("train", data.train), ("dev", data.dev)):
            kept = 0
            with (folder / "tokens" / f"{split}.txt").open("w", encoding="utf-8", newline="") as file:
                for sentence in _sound_sentences(source, data) if source else ():
                    file.write("".join(sentence.lines))
                    kept += len(sentence.rows)
                    if split == "train":
                        form = sentence.column(kind.place("form"))
                        words.update(word.lower() for word in form)
                        characters.update(c for word in form for c in word)
                        for name in tags:
                            tags[name].update(sentence.column(kind.place(name)))
            if source and not kept:
                raise DataError(f"{source}: no words; a tagger needs sentences in columns.")
        vocabulary = {
            "words": Vocabulary.from_counts(words, data.min_count).symbols[1:],
            "characters": [_BEGIN, _END, *sorted(characters - Counter([_BEGIN, _END]))],
            "tags": {name: sorted(counts) for name, counts in tags.items()},
        }
        (folder / "vocabulary.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        return cls.restore(settings, folder)

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        path = folder / "vocabulary.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            tags = {str(name): tuple(known) for name, known in stored["tags"].items()}
            assets = Assets(Vocabulary(stored["words"]), Vocabulary(stored["characters"]), tags)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); the model folder is damaged.") from error
        return cls(settings, assets, folder)

    def build_model(self) -> Tagger:
        model = self.model
        return Tagger(
            len(self.assets.words) + 1,
            len(self.assets.characters) + 1,
            {name: len(known) for name, known in self.assets.tags.items()},
            model.build_cell,
            model.embedding_size,
            model.character_size,
            model.spelling_size,
            model.hidden_size,
            model.num_layers,
            model.dropout,
            model.word_dropout,
        )

    def training_batches(self, seed: int) -> BatchSource:
        return SentenceBatches(self, self._stored("train"), self.data.batch_words, seed)

    def validate(self, model: Tagger) -> dict[str, float] | None:
        return self._measure(model, self._stored("dev")) if self.data.dev else None

    def evaluate(self, model: Tagger, data: str) -> dict[str, float]:
        """Accuracy of each target, of all together, and on words that training did not see."""
        if data == "validation" and not Path(data).exists():
            return self._measure(model, self._stored("dev"))
        return self._measure(model, self._read(data))

    def reading(self, data: str, num_steps: int, num_sequences: int) -> Reading:
        sentences = self._stored("dev") if data == "validation" else list(_sound_sentences(data, self.data))
        longest = sorted(sentences, key=lambda s: -len(s.rows))[:num_sequences]
        columns = [[s.column(place) for s in longest] for place in self.places]
        form = [s.column(self.format.place("form")) for s in longest]
        words = f"the {len(longest)} longest sentences of {data}"
        return Reading(self.assets.batch(form, columns), words, [f"{word} " for word in form[0]], None)

    def predictor(self, model: Tagger) -> "TrainedTagger":
        return TrainedTagger(self, model)

    def predict(self, model: Tagger, sentences: Sequence[Sequence[str]]) -> list[list[tuple[str, ...]]]:
        """For each sentence and each word the tags of all targets."""
        found: list[list[tuple[str, ...]]] = [[] for _ in sentences]
        full = [place for place, sentence in enumerate(sentences) if len(sentence)]
        buckets = Buckets([len(sentences[place]) for place in full], _PREDICTED_WORDS)
        known = list(self.assets.tags.values())
        device = model.embedding.weight.device
        model.eval()
        with torch.no_grad():
            for index in range(len(buckets)):
                rows = [full[row] for row in buckets.rows(0, index)]
                batch = self.assets.batch([sentences[row] for row in rows]).to(device)
                best = [logits.argmax(-1).t().tolist() for logits in model.logits(model(batch))]
                for b, row in enumerate(rows):
                    numbers = zip(*(target[b][: len(sentences[row])] for target in best), strict=True)
                    found[row] = [tuple(tags[n] for tags, n in zip(known, word, strict=True)) for word in numbers]
        return found

    def _measure(self, model: Tagger, sentences: Sequence[Sentence]) -> dict[str, float]:
        form = self.format.place("form")
        predicted = self.predict(model, [s.column(form) for s in sentences])
        right, whole, unknown, unknown_right, words = Counter[str](), 0, 0, 0, 0
        for sentence, tags in zip(sentences, predicted, strict=True):
            gold = list(zip(*(sentence.column(place) for place in self.places), strict=True))
            for word, own, wanted in zip(sentence.column(form), tags, gold, strict=True):
                words, whole = words + 1, whole + (own == wanted)
                for name, a, b in zip(self.assets.tags, own, wanted, strict=True):
                    right[name] += a == b
                if word.lower() not in self.assets.words.numbers:
                    unknown, unknown_right = unknown + 1, unknown_right + (own[0] == wanted[0])
        if not words:
            raise DataError("there are no words to measure on.")
        accuracy = {f"{name}_accuracy": right[name] / words for name in self.assets.tags}
        first = next(iter(self.assets.tags))
        return {
            **accuracy,
            "all_tags_accuracy": whole / words,
            f"{first}_accuracy_on_unknown_words": unknown_right / max(1, unknown),
            "error": 1 - sum(accuracy.values()) / len(accuracy),
            "num_words": words,
            "num_unknown": unknown,
        }

    def _stored(self, split: str) -> list[Sentence]:
        path = self.folder / "tokens" / f"{split}.txt"
        if not path.exists():
            raise CheckpointError(f"{path}: no such file; the folder was copied without its `tokens` folder.")
        return self._read(str(path))

    def _read(self, source: str) -> list[Sentence]:
        """All sentences with words; a malformed one is an error."""
        return [sentence for s in _sentences(source, self.data.format) if (sentence := check(s)).rows]


class SentenceBatches:
    """The training sentences in batches of like length."""

    def __init__(self, task: Tagging, sentences: Sequence[Sentence], batch_words: int, seed: int):
        form = task.format.place("form")
        self.assets, self.form = task.assets, [s.column(form) for s in sentences]
        self.columns = [[s.column(place) for s in sentences] for place in task.places]
        self.buckets = Buckets([len(words) for words in self.form], batch_words, seed)
        self.batch_size = 1  # a state's rows; sentences carry none

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.buckets)

    def batch(self, epoch: int, index: int) -> TaggingBatch:
        """The batch of a place."""
        rows = self.buckets.rows(epoch, index)
        return self.assets.batch([self.form[r] for r in rows], [[c[r] for r in rows] for c in self.columns])


class TrainedTagger:
    """A tagger as a user holds it.

    Attributes:
        task: its data settings and what it knows of its language.
        model: the network, in evaluation mode.
    """

    def __init__(self, task: Tagging, model: Tagger):
        self.task, self.model = task, model.eval()

    def tag(self, words: Sequence[str]) -> list[dict[str, str]]:
        """The tags of a sentence's words, by target.

        Raises:
            DataError: a word is empty or no text.
        """
        if isinstance(words, str) or not all(isinstance(word, str) and word for word in words):
            raise DataError(f"tag: expected a list of words that are not empty, got {words!r}.")
        (tags,) = self.task.predict(self.model, [words])
        return [dict(zip(self.task.assets.tags, one, strict=True)) for one in tags]

    def predict_file(self, source: str, skip_bad: bool = False, at_once: int = 2000) -> Iterator[str]:
        """The text of a file with its target columns predicted and all else as it was, some sentences at a time.

        Raises:
            DataError: a line is malformed; with `skip_bad` such a sentence is passed on as it is.
        """
        waiting: list[Sentence] = []
        for sentence in _sentences(source, self.task.data.format):
            waiting.append(sentence if skip_bad else check(sentence))
            if len(waiting) == at_once:
                yield self._tagged(waiting)
                waiting = []
        yield self._tagged(waiting)

    def evaluate(self, data: str) -> dict[str, float]:
        """Accuracies on a file; see `Tagging.evaluate`."""
        return self.task.evaluate(self.model, data)

    def _tagged(self, sentences: Sequence[Sentence]) -> str:
        form, separator = self.task.format.place("form"), self.task.format.separator
        tags = self.task.predict(self.model, [s.column(form) if s.rows else [] for s in sentences])
        texts = []
        for sentence, own in zip(sentences, tags, strict=True):
            columns = {place: [word[k] for word in own] for k, place in enumerate(self.task.places)}
            texts.append(sentence.replaced(columns, separator))
        return "".join(texts)


def _sentences(source: str, kind: str) -> Iterator[Sentence]:
    if source == "-":
        yield from read_sentences(sys.stdin.buffer, parse_format(kind), "standard input")
        return
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{source}: no such file.")
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            yield from read_sentences(file, parse_format(kind), source)
    except (OSError, EOFError) as error:
        raise DataError(f"{source}: cannot be read ({error}).") from error


def _sound_sentences(source: str, data: TaggingData) -> Iterator[Sentence]:
    """Sentences with words; malformed ones are an error, or are left out and counted."""
    skipped = 0
    for sentence in _sentences(source, data.format):
        if sentence.problem and data.skip_bad:
            skipped += 1
        elif check(sentence).rows:
            yield sentence
    if skipped:
        print(f"{source}: {skipped} malformed sentences were left out.", file=sys.stderr)
