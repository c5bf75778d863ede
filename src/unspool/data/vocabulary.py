"""A vocabulary: symbols and their numbers, with one number for what is unknown."""

from collections import Counter
from collections.abc import Iterable, Sequence

from unspool.errors import ConfigError


class Vocabulary:
    """Symbols numbered from 1 in the order given; 0 is what is unknown.

    Args:
        symbols: distinct strings, without the unknown symbol.
    """

    UNKNOWN = "<unk>"

    def __init__(self, symbols: Sequence[str]):
        self.symbols = (self.UNKNOWN, *symbols)
        self.numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        if len(self.numbers) != len(self.symbols):
            raise ConfigError("Vocabulary: symbols must be distinct and none may be '<unk>'.")

    def __len__(self) -> int:
        return len(self.symbols)

    def number(self, symbol: str) -> int:
        """The number of a symbol, 0 where it is unknown."""
        return self.numbers.get(symbol, 0)

    @classmethod
    def from_counts(cls, counts: Counter[str], min_count: int = 1, max_size: int = 0) -> "Vocabulary":
        """The symbols that occur at least `min_count` times, at most `max_size` of them (0: all), the commonest kept.

        Symbols are sorted, so that equal texts give equal vocabularies.
        """
        kept = [(n, s) for s, n in counts.items() if n >= min_count and s != cls.UNKNOWN]
        kept.sort(key=lambda pair: (-pair[0], pair[1]))
        return cls(sorted(symbol for _, symbol in (kept[: max_size - 1] if max_size else kept)))


def count_symbols(pieces: Iterable[Iterable[str]]) -> Counter[str]:
    """How often each symbol occurs."""
    counts: Counter[str] = Counter()
    for piece in pieces:
        counts.update(piece)
    return counts
