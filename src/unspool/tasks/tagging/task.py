"""Tagging: sentences in columns in, a model of their tags, the same files with predicted columns out."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from unspool.data.buckets import Buckets
from unspool.data.columns import Sentence, parse_format
from unspool.data.spans import stray_tags
from unspool.errors import CheckpointError, DataError
from unspool.files import in_portions
from unspool.models.tagger import Tagger, TaggingBatch
from unspool.tasks.base import BatchSource, Reading, Task
from unspool.tasks.tagging.assets import Assets
from unspool.tasks.tagging.features import WordFeatures, side_by_side
from unspool.tasks.tagging.files import sound_sentences
from unspool.tasks.tagging.scores import Scores, summary
from unspool.tasks.tagging.settings import TaggerSettings, TaggingData

_PREDICTED_WORDS = 4000  # of a batch in prediction, padding included
_EPOCHS, _UPDATES = 20, 2500  # at least so many, so that small treebanks are learned too
_AT_ONCE = 2000  # sentences held in memory in evaluation


class Tagging(Task):
    """Predicting a tag for each word of a sentence: parts of speech, features, chunks, names."""

    name = "tagging"
    sections = {"data": TaggingData, "model": TaggerSettings}
    unit = "words"
    criterion = "error"

    def __init__(self, settings: Mapping[str, Any], assets: Assets, features: WordFeatures, folder: Path):
        self.data: TaggingData = settings["data"]
        self.model: TaggerSettings = settings["model"]
        self.assets, self.features, self.folder = assets, features, folder
        self.format = parse_format(self.data.format)
        self.form = self.format.place("form")
        self.places = tuple(self.format.place(target.name) for target in assets.targets)
        self._held: dict[str, StoredSentences] = {}

    @classmethod
    def prepare(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        data: TaggingData = settings["data"]
        settings["model"].check()
        kind = parse_format(data.format)
        (folder / "tokens").mkdir(exist_ok=True)
        features = WordFeatures.adopt(data.vectors, data.vectors_limit, data.language_models, folder)
        sentences = _copy(data, "train", data.train, folder)
        if data.dev:
            _copy(data, "dev", data.dev, folder)
        columns = {name: [s.column(kind.place(name)) for s in sentences] for name in data.target_names}
        for name, column in list(columns.items()):
            if all(set(tags) == {"_"} for tags in column):
                print(f"{data.train}: column {name} is _ for every word; it will not be predicted.", file=sys.stderr)
                del columns[name]
            elif stray := stray_tags(column):
                shown = ", ".join(stray[:5])
                print(f"{data.train}: {name} looks like spans but for {shown}; learned word by word.", file=sys.stderr)
        if not columns:
            raise DataError(f"{data.train}: no column to learn; all of {', '.join(data.target_names)} hold only _.")
        assets = Assets.build([s.column(kind.place("form")) for s in sentences], columns, data.min_count, data.scheme)
        assets.save(folder)
        return cls(settings, assets, features, folder)

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        return cls(settings, Assets.load(folder), WordFeatures.load(folder), folder)

    def build_model(self) -> Tagger:
        model = self.model
        return Tagger(
            word_counts=self.assets.counts,
            num_characters=len(self.assets.characters) + 1,
            num_tags=[len(target.tags) for target in self.assets.targets],
            crfs=[target.build_crf(model.crf) for target in self.assets.targets],
            build_cell=model.build_cell,
            **{name: value for name, value in model.options.items() if name != "crf"},
            feature_size=self.features.size,
        )

    def training_batches(self, seed: int) -> BatchSource:
        return SentenceBatches(self.assets, self._stored("train"), self.data.batch_words, seed)

    def epochs(self, num_batches: int) -> int:
        return max(_EPOCHS, math.ceil(_UPDATES / num_batches))

    def validate(self, model: Tagger) -> dict[str, float] | None:
        if not self.data.dev:
            return None
        stored = self._stored("dev")
        scores = Scores(self.assets, self.format.is_conllu)
        self._count(model, stored.sentences, scores, stored.features_of)
        return {name: value for name, value in scores.values(self.data.dev).items() if isinstance(value, (int, float))}

    def evaluate(self, model: Tagger, data: str) -> dict[str, Any]:
        """Accuracies, F1 of spans, tables and confusions on a file, or on the run's own ``validation`` or ``train``."""
        scores = Scores(self.assets, self.format.is_conllu)
        for portion in in_portions(sound_sentences(self._named(data), self.format), _AT_ONCE):
            self._count(model, portion, scores)
        return scores.values(data)

    def summary(self, values: dict[str, Any]) -> list[str]:
        return summary(values)

    def reading(self, data: str, num_steps: int, num_sequences: int) -> Reading:
        sentences = list(sound_sentences(self._named(data), self.format))
        if not sentences:
            raise DataError(f"{data}: no words to read.")
        longest = sorted(sentences, key=lambda s: -len(s.rows))[:num_sequences]
        form = [s.column(self.form)[:num_steps] for s in longest]
        tags = [[target.encode(s.column(place))[:num_steps] for s in longest] for target, place in self._columns()]
        words = f"the {len(longest)} longest sentences of {data}"
        batch = self.assets.batch(form, tags, self.features(form))
        return Reading(batch, words, [f"{word} " for word in form[0]], None, "stack")

    def predictor(self, model: Tagger) -> Any:
        from unspool.tasks.tagging.trained import TrainedTagger  # which knows this task

        return TrainedTagger(self, model)

    def predict(self, model: Tagger, sentences: Sequence[Sequence[str]], features: Any = None) -> list[list[list[str]]]:
        """For each target and each sentence the tags of its words; `features` gives those of some rows, if known."""

        def best(batch: TaggingBatch) -> list[list[list[str]]]:
            pairs = zip(self.assets.targets, model.best(batch), strict=True)
            return [[target.decode(row) for row in rows] for target, rows in pairs]

        return self._in_buckets(model, sentences, best, [], features)

    def decode(
        self, model: Tagger, sentences: Sequence[Sequence[str]], count: int
    ) -> list[list[list[tuple[list[str], float]]]]:
        """For each target and each sentence its likeliest ways, as tags of files with their probabilities."""

        def ways(batch: TaggingBatch) -> list[list[list[Any]]]:
            pairs = zip(self.assets.targets, model.decode(batch, count), strict=True)
            return [[[(t.decode(way.tags), way.probability) for way in row] for row in rows] for t, rows in pairs]

        return self._in_buckets(model, sentences, ways, [([], 1.0)])

    def _in_buckets(
        self,
        model: Tagger,
        sentences: Sequence[Sequence[str]],
        run: Callable[[TaggingBatch], list[list[Any]]],
        empty: Any,
        features: Callable[[list[int]], torch.Tensor | None] | None = None,
    ) -> list[list[Any]]:
        """Runs batches of like length; the answers, by target, are in the order of the sentences."""
        found: list[list[Any]] = [[empty] * len(sentences) for _ in self.assets.targets]
        full = [place for place, sentence in enumerate(sentences) if len(sentence)]
        buckets = Buckets([len(sentences[place]) for place in full], _PREDICTED_WORDS)
        device = model.embedding.weight.device
        model.eval()
        for index in range(len(buckets)):
            rows = [full[row] for row in buckets.rows(0, index)]
            words = [sentences[row] for row in rows]
            known = features(rows) if features else self.features(words)
            answers = run(self.assets.batch(words, features=known).to(device))
            for own, answer in zip(found, answers, strict=True):
                for row, one in zip(rows, answer, strict=True):
                    own[row] = one
        return found

    def _count(self, model: Tagger, sentences: Sequence[Sentence], scores: Scores, features: Any = None) -> None:
        words = [s.column(self.form) for s in sentences]
        found = self.predict(model, words, features)
        for b, sentence in enumerate(sentences):
            scores.add(words[b], [sentence.column(place) for place in self.places], [own[b] for own in found])

    def _columns(self) -> Iterable[tuple[Any, int]]:
        return zip(self.assets.targets, self.places, strict=True)

    def _named(self, data: str) -> str:
        """The run's own file where one of its splits is named and no file has that name."""
        split = {"validation": "dev", "train": "train"}.get(data)
        return str(self._path(split)) if split and not Path(data).exists() else data

    def _path(self, split: str) -> Path:
        path = self.folder / "tokens" / f"{split}.txt"
        if not path.exists():
            raise CheckpointError(f"{path}: no such file; the folder was copied without its `tokens` folder.")
        return path

    def _stored(self, split: str) -> "StoredSentences":
        if split not in self._held:
            sentences = list(sound_sentences(str(self._path(split)), self.format))
            if not sentences:
                raise CheckpointError(f"{self._path(split)}: holds no sentences; the run's folder is damaged.")
            columns = [[t.encode(s.column(place)) for s in sentences] for t, place in self._columns()]
            forms = [s.column(self.form) for s in sentences]
            self._held[split] = StoredSentences(sentences, forms, columns, self._table(split, forms))
        return self._held[split]

    def _table(self, split: str, forms: Sequence[Sequence[str]]) -> np.ndarray | None:
        """The features of all words of a split, made when they are first asked for."""
        if not self.features.size:
            return None
        path = self.folder / "tokens" / f"{split}.npy"
        if not path.exists():
            print(f"features of {split} sentences, once for all epochs ...", file=sys.stderr)
            self.features.write(forms, path)
        try:
            table: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); delete it, and it is made anew.") from error
        if table.shape != (sum(map(len, forms)), self.features.size):
            raise CheckpointError(f"{path}: holds features of other words; delete it, and it is made anew.")
        return table


class StoredSentences:
    """One of a run's splits.

    Attributes:
        sentences: as they stand in the file.
        forms: their words.
        columns: for each target the numbers of their tags.
        table: [words, F] features from elsewhere, all sentences one after the other, or None.
    """

    def __init__(
        self,
        sentences: list[Sentence],
        forms: list[list[str]],
        columns: list[list[list[int]]],
        table: np.ndarray | None,
    ):
        self.sentences, self.forms, self.columns, self.table = sentences, forms, columns, table
        self.lengths = np.array([len(words) for words in forms])
        self.begins = np.cumsum(self.lengths) - self.lengths

    def features_of(self, rows: list[int]) -> torch.Tensor | None:
        """[T, B, F] features of some sentences."""
        if self.table is None:
            return None
        return side_by_side(self.table, self.begins[rows].tolist(), self.lengths[rows].tolist())


class SentenceBatches:
    """The training sentences in batches of like length."""

    def __init__(self, assets: Assets, stored: StoredSentences, batch_words: int, seed: int):
        self.assets, self.stored = assets, stored
        self.buckets = Buckets(stored.lengths.tolist(), batch_words, seed)
        self.batch_size = 1  # a state's rows; sentences carry none

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.buckets)

    def batch(self, epoch: int, index: int) -> TaggingBatch:
        """The batch of a place."""
        rows = self.buckets.rows(epoch, index)
        tags = [[column[r] for r in rows] for column in self.stored.columns]
        return self.assets.batch([self.stored.forms[r] for r in rows], tags, self.stored.features_of(rows))


def _copy(data: TaggingData, split: str, source: str, folder: Path) -> list[Sentence]:
    """Copies the sentences of a file that have words into the folder, and returns them."""
    (folder / "tokens" / f"{split}.npy").unlink(missing_ok=True)
    sentences = list(sound_sentences(source, parse_format(data.format), data.skip_bad))
    if not sentences:
        raise DataError(f"{source}: no words; a tagger needs sentences in columns.")
    with (folder / "tokens" / f"{split}.txt").open("w", encoding="utf-8", newline="") as file:
        file.writelines("".join(sentence.lines) for sentence in sentences)
    return sentences
