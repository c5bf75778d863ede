"""Tokenizers: text to numbers and back, in units of characters, bytes, words or byte-pair encoding."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import tokenizers as huggingface

from unspool.data.text import TextSource
from unspool.data.vocabulary import Vocabulary, count_symbols
from unspool.errors import CheckpointError, ConfigError, DataError

UNITS = ("character", "byte", "word", "bpe")


class Tokenizer(ABC):
    """Text to numbers and back.

    Attributes:
        unit: what one number stands for.
        unknown: the number of what is not in the vocabulary, or None where all text can be written.
    """

    unit: ClassVar[str]
    unknown: int | None = 0

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """How many numbers there are."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The numbers of a text, or of a part of it that begins at white space."""

    @abstractmethod
    def decode(self, numbers: Sequence[int]) -> str:
        """The text of numbers; what does not make up a whole character is shown as U+FFFD."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All that `read_tokenizer` needs, as plain values."""

    def unknown_in(self, text: str) -> list[str]:
        """The distinct symbols of a text that are not in the vocabulary, in order."""
        return []

    def to_json(self) -> str:
        """The tokenizer as text for `read_tokenizer`."""
        return json.dumps({"unit": self.unit, **self.to_dict()}, ensure_ascii=False, indent=0)


class CharacterTokenizer(Tokenizer):
    """One number for each Unicode character of the training text."""

    unit = "character"

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary

    @property
    def vocabulary_size(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> list[int]:
        return [self.vocabulary.numbers.get(character, 0) for character in text]

    def decode(self, numbers: Sequence[int]) -> str:
        return "".join(self.vocabulary.symbols[n] if n else "\ufffd" for n in numbers)

    def unknown_in(self, text: str) -> list[str]:
        return list(dict.fromkeys(c for c in text if c not in self.vocabulary.numbers))

    def to_dict(self) -> dict[str, Any]:
        return {"symbols": self.vocabulary.symbols[1:]}


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8; nothing is unknown."""

    unit = "byte"
    unknown = None
    vocabulary_size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, numbers: Sequence[int]) -> str:
        return bytes(numbers).decode(errors="replace")

    def to_dict(self) -> dict[str, Any]:
        return {}


class WordTokenizer(Tokenizer):
    """What stands between white space, and one symbol for the end of a line; other white space is not kept."""

    unit = "word"
    end_of_line = "<eos>"
    _words = re.compile(r"\n|\S+")

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary

    @property
    def vocabulary_size(self) -> int:
        return len(self.vocabulary)

    def split(self, text: str) -> list[str]:
        """The words of a text; the end of a line is `end_of_line`."""
        return [self.end_of_line if word == "\n" else word for word in self._words.findall(text)]

    def encode(self, text: str) -> list[int]:
        return [self.vocabulary.numbers.get(word, 0) for word in self.split(text)]

    def decode(self, numbers: Sequence[int]) -> str:
        text = " ".join(self.vocabulary.symbols[n] for n in numbers)
        return text.replace(f" {self.end_of_line}", "\n").replace(self.end_of_line, "\n").replace("\n ", "\n")

    def unknown_in(self, text: str) -> list[str]:
        return list(dict.fromkeys(word for word in self.split(text) if not self.vocabulary.number(word)))

    def to_dict(self) -> dict[str, Any]:
        return {"symbols": self.vocabulary.symbols[1:]}


class BPETokenizer(Tokenizer):
    """Byte-pair encoding over bytes (Sennrich et al. 2016, arXiv 1508.07909), by the `tokenizers` library."""

    unit = "bpe"
    unknown = None

    def __init__(self, model: huggingface.Tokenizer):
        self.model = model

    @property
    def vocabulary_size(self) -> int:
        return int(self.model.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        return list(self.model.encode(text, add_special_tokens=False).ids)

    def decode(self, numbers: Sequence[int]) -> str:
        return str(self.model.decode(list(numbers), skip_special_tokens=False))

    def to_dict(self) -> dict[str, Any]:
        return {"model": json.loads(self.model.to_str())}

    @classmethod
    def train(cls, pieces: Iterator[str], vocabulary_size: int) -> "BPETokenizer":
        """Learns merges from a text until there are `vocabulary_size` symbols."""
        model = huggingface.Tokenizer(huggingface.models.BPE())
        model.pre_tokenizer = huggingface.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = huggingface.decoders.ByteLevel()
        trainer = huggingface.trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            initial_alphabet=huggingface.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        model.train_from_iterator(pieces, trainer)
        return cls(model)


def build_tokenizer(unit: str, source: TextSource, vocabulary_size: int = 0, min_count: int = 1) -> Tokenizer:
    """A tokenizer learned from the training text.

    Args:
        unit: one of `UNITS`.
        source: the training text.
        vocabulary_size: at most so many symbols; 0 for all, or 4,096 in byte-pair encoding.
        min_count: characters and words that occur less often are unknown.
    """
    if unit == "byte":
        return ByteTokenizer()
    if unit == "bpe":
        if 0 < vocabulary_size < 256:
            raise ConfigError(
                f"vocabulary_size must be at least 256 with unit bpe (one for each byte), got {vocabulary_size}."
            )
        return BPETokenizer.train(source.pieces(), vocabulary_size or 4096)
    if unit == "character":
        counts = count_symbols(source.pieces())
    else:
        counts = count_symbols(WordTokenizer(Vocabulary([])).split(piece) for piece in source.pieces())
    vocabulary = Vocabulary.from_counts(counts, min_count, vocabulary_size)
    if len(vocabulary) < 2:
        raise DataError(
            f"the training text holds no {unit} for the vocabulary (min_count {min_count}, vocabulary_size "
            f"{vocabulary_size or 'not limited'}); lower --min-count or give more text."
        )
    return CharacterTokenizer(vocabulary) if unit == "character" else WordTokenizer(vocabulary)


def read_tokenizer(text: str, where: str) -> Tokenizer:
    """A tokenizer from what `Tokenizer.to_json` wrote.

    Raises:
        CheckpointError: the text is damaged.
    """
    try:
        stored = json.loads(text)
        match stored["unit"]:
            case "byte":
                return ByteTokenizer()
            case "bpe":
                return BPETokenizer(huggingface.Tokenizer.from_str(json.dumps(stored["model"])))
            case "character":
                return CharacterTokenizer(Vocabulary(stored["symbols"]))
            case "word":
                return WordTokenizer(Vocabulary(stored["symbols"]))
            case unit:
                raise ValueError(f"unknown unit {unit!r}")
    except Exception as error:  # the tokenizers library raises Exception itself
        raise CheckpointError(f"{where}: not a tokenizer of unspool ({error}); the model folder is damaged.") from error


def encode_pieces(tokenizer: Tokenizer, source: TextSource) -> Iterator[tuple[list[int], int]]:
    """The numbers of a text, piece by piece, each with the number of its characters."""
    return ((tokenizer.encode(piece), len(piece)) for piece in source.pieces())
