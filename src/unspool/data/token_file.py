"""Token files: an encoded corpus on disk, mapped into memory, however large."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from unspool.data.text import TextSource
from unspool.data.tokenizers import Tokenizer, encode_pieces
from unspool.errors import CheckpointError, DataError

_BLOCK = 1 << 24  # tokens read at once


@dataclass(frozen=True)
class TokenFile:
    """A corpus as numbers.

    Attributes:
        path: the file of numbers, in the machine's own byte order.
        dtype: their numpy type.
        num_tokens: how many.
        num_characters: length of the text that they stand for.
        num_unknown: how many stand for something that is not in the vocabulary.
        sha256: of the file.
    """

    path: Path
    dtype: str
    num_tokens: int
    num_characters: int
    num_unknown: int
    sha256: str

    def verify(self) -> None:
        """Reads the whole file once.

        Raises:
            CheckpointError: it is not the one that was written.
        """
        digest = hashlib.sha256()
        tokens = self.tokens()
        for first in range(0, len(tokens), _BLOCK):
            digest.update(tokens[first : first + _BLOCK].tobytes())
        if digest.hexdigest() != self.sha256:
            raise CheckpointError(f"{self.path}: its checksum does not fit its contents; the run's folder is damaged.")

    def tokens(self) -> np.ndarray:
        """The numbers, mapped from disk.

        Raises:
            CheckpointError: the file is gone or has another size.
        """
        try:
            tokens = np.memmap(self.path, dtype=self.dtype, mode="r")
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{self.path}: cannot be mapped ({error}); the run's folder is damaged.") from error
        if len(tokens) != self.num_tokens:
            raise CheckpointError(
                f"{self.path}: {len(tokens)} tokens, expected {self.num_tokens}; the run's folder is damaged."
            )
        return tokens

    def save(self) -> None:
        """Writes the counts beside the numbers, as JSON."""
        _card(self.path).write_text(json.dumps(asdict(self) | {"path": self.path.name}, indent=1), encoding="utf-8")

    @classmethod
    def open(cls, path: Path) -> "TokenFile":
        """Reads the counts that `save` wrote.

        Raises:
            CheckpointError: they are missing or damaged.
        """
        try:
            stored = json.loads(_card(path).read_text(encoding="utf-8"))
            return cls(**stored | {"path": path})
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{_card(path)}: cannot be read ({error}); the run's folder is damaged.") from error


def write_tokens(path: Path, tokenizer: Tokenizer, source: TextSource, name: str) -> TokenFile:
    """Encodes a text into a file.

    Args:
        path: where to write.
        tokenizer: how.
        source: the text.
        name: of the text, for errors.

    Raises:
        DataError: fewer than two tokens came out, too few to predict one from another.
    """
    dtype = "uint8" if tokenizer.vocabulary_size <= 1 << 8 else "uint16"
    if tokenizer.vocabulary_size > 1 << 16:
        dtype = "uint32"
    num_tokens = num_characters = num_unknown = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for numbers, characters in encode_pieces(tokenizer, source):
            block = np.asarray(numbers, dtype=dtype).tobytes()
            file.write(block)
            digest.update(block)
            num_tokens, num_characters = num_tokens + len(numbers), num_characters + characters
            num_unknown += 0 if tokenizer.unknown is None else numbers.count(tokenizer.unknown)
        file.flush()
        os.fsync(file.fileno())
    if num_tokens < 2:
        raise DataError(
            f"{name}: {num_tokens} {tokenizer.unit} units of text, at least 2 are needed; give more text, or another share or file "
            "(--validation-share 0 for none)."
        )
    tokens = TokenFile(path, dtype, num_tokens, num_characters, num_unknown, digest.hexdigest())
    tokens.save()
    return tokens


def _card(path: Path) -> Path:
    return path.with_suffix(".json")
