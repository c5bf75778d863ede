"""A tokenizer with the symbols that translation needs besides: padding, unknown, begin and end."""

import json
from collections.abc import Sequence

from unspool.data import Tokenizer, read_tokenizer
from unspool.models.seq2seq import BEGIN, END, PADDING, UNKNOWN


class Symbols:
    """Text to numbers and back; the first numbers are those of `unspool.models.seq2seq`.

    Args:
        tokenizer: of characters, words or byte-pair pieces.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._shift = END + 1 - (tokenizer.unknown is not None)  # a tokenizer's own unknown symbol, 0, is `UNKNOWN`

    @property
    def never(self) -> tuple[int, ...]:
        """Symbols that are never written."""
        return (PADDING, BEGIN) if self.tokenizer.unknown is not None else (PADDING, UNKNOWN, BEGIN)

    def __len__(self) -> int:
        return self.tokenizer.vocabulary_size + self._shift

    def encode(self, text: str) -> list[int]:
        """The numbers of a line, without begin and end."""
        unknown = self.tokenizer.unknown
        return [UNKNOWN if number == unknown else number + self._shift for number in self.tokenizer.encode(text)]

    def decode(self, numbers: Sequence[int]) -> str:
        """The text of numbers; unknown ones are shown as the tokenizer shows them."""
        known = [max(0, number - self._shift) for number in numbers if number > END or number == UNKNOWN]
        return self.tokenizer.decode(known)

    def pieces(self, numbers: Sequence[int]) -> list[str]:
        """Each symbol as people read it."""
        return [self.decode([number]) for number in numbers]


def write_symbols(*sides: Symbols) -> str:
    """Symbols as text for `read_symbols`."""
    return json.dumps([json.loads(side.tokenizer.to_json()) for side in sides], ensure_ascii=False)


def read_symbols(text: str, where: str) -> list[Symbols]:
    """What `write_symbols` wrote.

    Raises:
        ValueError, CheckpointError: it is damaged.
    """
    return [Symbols(read_tokenizer(json.dumps(one), where)) for one in json.loads(text)]
