"""Features of words that come from elsewhere: vectors of a file, states of character language models."""

import shutil
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from unspool.data.buckets import Buckets
from unspool.data.vectors import WordVectors, read_vectors
from unspool.errors import CheckpointError, DataError
from unspool.files import flush
from unspool.models.contextual import CharacterContext
from unspool.tasks.character_model import KEPT, read_character_model
from unspool.types import Float

_VECTORS, _MODELS = "vectors.npy", "language-models"
_WORDS_AT_ONCE = 4000


class WordFeatures:
    """Fixed features of words, as a model folder keeps what they are made from.

    Attributes:
        size: F, features of a word.
    """

    def __init__(self, vectors: WordVectors | None, contexts: Sequence[CharacterContext]):
        self.vectors, self.contexts = vectors, contexts
        self.size = sum(context.size for context in contexts) + (vectors.table.shape[1] if vectors else 0)

    @classmethod
    def adopt(cls, vectors: str, limit: int, language_models: str, folder: Path) -> Self:
        """Copies into a model folder what features need.

        Args:
            vectors: a file of word vectors; empty for none.
            limit: vectors to read, at most.
            language_models: folders, between commas; empty for none.
            folder: where to.

        Raises:
            DataError: the file of vectors is missing or damaged.
            CheckpointError: a folder is missing, damaged, or holds something else.
            ConfigError: a language model reads neither characters nor bytes.
        """
        for name in (_VECTORS, Path(_VECTORS).with_suffix(".json")):  # of an earlier preparation that was not finished
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / _MODELS, ignore_errors=True)
        if vectors:
            if not Path(vectors).exists() or Path(vectors).is_dir():
                raise DataError(f"{vectors}: no such file; expected word vectors (.vec or .txt).")
            read_vectors(Path(vectors), limit).save(folder / _VECTORS)
        sources = [Path(name.strip()) for name in language_models.split(",") if name.strip()]
        for number, source in enumerate(sources):
            read_character_model(source)  # refused before it is copied
            (folder / _MODELS / str(number)).mkdir(parents=True)
            for name in KEPT:
                shutil.copyfile(source / name, folder / _MODELS / str(number) / name)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `adopt` made.

        Raises:
            CheckpointError: something is damaged.
        """
        try:
            vectors = WordVectors.load(folder / _VECTORS) if (folder / _VECTORS).exists() else None
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"{folder / _VECTORS}: cannot be read ({error}); the model is damaged.") from error
        return cls(vectors, [read_character_model(model) for model in sorted((folder / _MODELS).glob("*"))])

    def __call__(self, sentences: Sequence[Sequence[str]]) -> Float[Tensor, "T B F"] | None:
        """Features of the words of sentences side by side, rounded to half precision; None where there are none."""
        parts = [context(sentences) for context in self.contexts]
        if self.vectors:
            rows = [self.vectors.row(word) for sentence in sentences for word in sentence]
            lengths = [len(sentence) for sentence in sentences]
            begins = [0, *accumulate(lengths)][:-1]
            parts.append(side_by_side(self.vectors.table[rows], begins, lengths))
        return torch.cat(parts, -1).half().float() if parts else None

    def write(self, sentences: Sequence[Sequence[str]], path: Path) -> None:
        """Writes the features of all words of sentences, one after the other, into a file [words, F]."""
        lengths = np.array([len(sentence) for sentence in sentences])
        begins = np.cumsum(lengths) - lengths
        beside = path.with_suffix(".new.npy")
        table = np.lib.format.open_memmap(beside, "w+", np.float16, (int(lengths.sum()), self.size))
        buckets = Buckets(lengths.tolist(), _WORDS_AT_ONCE)
        for index in range(len(buckets)):
            rows = buckets.rows(0, index)
            found = self([sentences[row] for row in rows])
            assert found is not None
            for b, row in enumerate(rows):
                table[begins[row] : begins[row] + lengths[row]] = found[: lengths[row], b].numpy()
        table.flush()
        flush(beside)
        beside.replace(path)


def side_by_side(table: np.ndarray, begins: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "T B F"]:
    """Sentences out of a table [words, F] in which they lie one after the other, zeros beyond their ends."""
    found = np.zeros((max(lengths), len(lengths), table.shape[1]), np.float32)
    for b, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
        found[:length, b] = table[begin : begin + length]
    return torch.from_numpy(found)
