"""N-grams of words: learned from text, read from ARPA files, and as a scorer of a speech recogniser's prefixes.

Interpolated Kneser-Ney smoothing with one discount an order: Kneser & Ney 1995 (ICASSP), Chen & Goodman 1999 (Computer Speech
and Language 13), equations 12 to 17; the discount n1 / (n1 + 2 n2) is Ney, Essen & Kneser 1994.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from unspool.errors import DataError
from unspool.files import read_lines

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
Words = tuple[str, ...]


class NGram:
    """log p(word | the words before), in nats, by backing off.

    Args:
        chances: log-probability of each known n-gram.
        backoffs: what is added when a history is cut by its first word.
    """

    def __init__(self, chances: dict[Words, float], backoffs: dict[Words, float]):
        self.chances, self.backoffs = chances, backoffs
        self.order = max(map(len, chances))
        self.unknown = chances.get(
            (UNKNOWN,), min(chance for words, chance in chances.items() if len(words) == 1 and words != (BEGIN,))
        )

    def __call__(self, history: Sequence[str], word: str) -> float:
        """Of a word after others; a sentence's first word comes after `BEGIN`."""
        known = word if (word,) in self.chances else UNKNOWN
        before = tuple(w if (w,) in self.chances or w == BEGIN else UNKNOWN for w in history[-self.order + 1 :])
        before = before if self.order > 1 else ()
        added = 0.0
        while True:
            chance = self.chances.get((*before, known))
            if chance is not None:
                return added + chance
            if not before:
                return added + self.unknown
            added += self.backoffs.get(before, 0.0)
            before = before[1:]

    @classmethod
    def learn(cls, sentences: Iterable[Sequence[str]], order: int = 3) -> "NGram":
        """From sentences of words.

        Raises:
            DataError: there are none.
        """
        counts: list[Counter[Words]] = [Counter() for _ in range(order)]
        for sentence in sentences:
            words = (BEGIN, *(word for word in sentence if word not in (BEGIN, END, UNKNOWN)), END)
            for n in range(1, order + 1):
                counts[n - 1].update(words[at : at + n] for at in range(len(words) - n + 1))
        counts[0].pop((BEGIN,), None)
        if not counts[0]:
            raise DataError("no sentences to learn n-grams from.")
        for n in range(order - 1):  # in how many contexts, but for what begins a sentence
            seen = Counter(words[1:] for words in counts[n + 1])
            counts[n] = Counter({w: seen[w] if w in seen and w[0] != BEGIN else c for w, c in counts[n].items()})
        chances: dict[Words, float] = {}
        backoffs: dict[Words, float] = {}
        lower: dict[Words, float] = {(): 1.0 / (len(counts[0]) + 1)}  # uniform, the unknown word included
        for n in range(order):
            often = Counter(counts[n].values())
            discount = often[1] / (often[1] + 2 * often[2]) if often[1] else 0.5
            totals, kinds = Counter[Words](), Counter(words[:-1] for words in counts[n])
            for words, count in counts[n].items():
                totals[words[:-1]] += count
            left = {context: discount * kinds[context] / totals[context] for context in totals}
            here = {w: (c - discount) / totals[w[:-1]] + left[w[:-1]] * lower[w[1:]] for w, c in counts[n].items()}
            if n == 0:
                here[(UNKNOWN,)] = left[()] * lower[()]
            else:
                backoffs |= {context: math.log(share) for context, share in left.items()}
            chances |= {words: math.log(chance) for words, chance in here.items()}
            lower = here
        return cls(chances, backoffs)

    @classmethod
    def read_arpa(cls, source: str) -> "NGram":
        """From a file in the ARPA format, whose logarithms have base 10.

        Raises:
            DataError: it is missing or damaged.
        """
        chances: dict[Words, float] = {}
        backoffs: dict[Words, float] = {}
        order, scale = 0, math.log(10)
        for number, line in enumerate(read_lines(source), start=1):
            if line.startswith("\\"):
                name = line[1:].split("-")[0]
                order = int(name) if name.isdigit() else 0
                continue
            fields = line.split()
            if not order or not fields:
                continue
            try:
                chance, words, rest = float(fields[0]), tuple(fields[1 : order + 1]), fields[order + 1 :]
                if len(words) != order or len(rest) > 1 or math.isnan(chance):
                    raise ValueError
                chances[words] = chance * scale
                if rest:
                    backoffs[words] = float(rest[0]) * scale
            except ValueError:
                raise DataError(f"{source}:{number}: expected a logarithm, {order} words, perhaps another.") from None
        if not any(len(words) == 1 for words in chances):
            raise DataError(f"{source}: holds no n-grams; it must be a file in the ARPA format.")
        return cls(chances, backoffs)


class WordScorer:
    """An n-gram of words as a scorer of symbols: a word counts when it ends.

    Args:
        ngram: of words.
        pieces: the text of each symbol; white space ends a word.
    """

    def __init__(self, ngram: NGram, pieces: Sequence[str]):
        self.ngram, self.pieces = ngram, pieces

    def start(self) -> tuple[Words, str]:
        """See `search.ctc.Scorer`."""
        return (BEGIN,), ""

    def extend(self, state: tuple[Words, str], symbol: int) -> tuple[float, tuple[Words, str]]:
        """See `search.ctc.Scorer`."""
        (history, letters), score = state, 0.0
        for letter in self.pieces[symbol]:
            if not letter.isspace():
                letters += letter
            elif letters:
                score += self.ngram(history, letters)
                history, letters = (*history, letters)[-self.ngram.order + 1 :] if self.ngram.order > 1 else (), ""
        return score, (history, letters)

    def finish(self, state: tuple[Words, str]) -> float:
        """See `search.ctc.Scorer`."""
        history, letters = state
        score = self.ngram(history, letters) if letters else 0.0
        return score + self.ngram((*history, letters) if letters else history, END)


class HotWords:
    """Words or phrases that are expected: each of their letters counts, and what turns out to be none is taken back.

    Args:
        phrases: as they are written.
        pieces: the text of each symbol.
    """

    def __init__(self, phrases: Sequence[str], pieces: Sequence[str]):
        self.phrases, self.pieces = set(phrases), pieces
        self.begins = {phrase[:n] for phrase in phrases for n in range(1, len(phrase) + 1)}

    def start(self) -> tuple[str | None, int]:
        """See `search.ctc.Scorer`."""
        return "", 0

    def extend(self, state: tuple[str | None, int], symbol: int) -> tuple[float, tuple[str | None, int]]:
        """See `search.ctc.Scorer`."""
        (begun, given), score = state, 0
        for letter in self.pieces[symbol]:
            if begun is not None and begun + letter in self.begins:
                begun, given, score = begun + letter, given + 1, score + 1
            else:  # a phrase may begin within one that failed
                words = [] if begun is None else f"{begun}{letter}".split(" ")
                tails = (" ".join(words[n:]) for n in range(1, len(words)))
                score -= given - self._kept(begun, letter)
                begun = next((tail for tail in tails if tail in self.begins), "" if letter.isspace() else None)
                given = len(begun or "")
                score += given
        return float(score), (begun, given)

    def finish(self, state: tuple[str | None, int]) -> float:
        """See `search.ctc.Scorer`."""
        begun, given = state
        return float(self._kept(begun, " ") - given)

    def _kept(self, begun: str | None, letter: str) -> int:
        """Letters of the longest phrase that is whole once this letter comes."""
        text = f"{begun or ''}{' ' if letter.isspace() else letter}"
        return max((len(phrase) for phrase in self.phrases if text.startswith(phrase + " ")), default=0)
