"""How a recogniser searches: plainly, or with a beam, a language model and words that are expected."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unspool.config import check_bounds
from unspool.data import Tokenizer
from unspool.errors import CheckpointError
from unspool.models import LanguageModel
from unspool.search.ctc import GreedySearch, PrefixBeam, PrefixSearch, Scorer
from unspool.search.ngram import HotWords, NGram, WordScorer
from unspool.tasks.character_model import read_character_model
from unspool.tasks.speech.alphabet import Alphabet


@dataclass(frozen=True)
class Listening:
    """How to search.

    Attributes:
        beam: over prefixes; None for the best path, which takes no other scores.
        language_model: an ARPA file, ``train`` for words learned from the training texts, or the folder of a language
            model of characters; empty: none.
        lm_weight: of what the language model says.
        lm_order: words of an n-gram that is learned.
        hot_words: words or phrases that are expected.
        hot_boost: nats for each of their letters.
        endpoint_seconds: so much silence ends an utterance of a stream; 0: never.
    """

    beam: PrefixBeam | None = None
    language_model: str = ""
    lm_weight: float = 0.5
    lm_order: int = 3
    hot_words: tuple[str, ...] = ()
    hot_boost: float = 1.0
    endpoint_seconds: float = 0.0

    def __post_init__(self) -> None:
        check_bounds(self, {"at least 0": "endpoint_seconds lm_weight hot_boost", "at least 1": "lm_order"})
        if self.beam is None and (self.language_model or self.hot_words):
            object.__setattr__(self, "beam", PrefixBeam())

    def searches(self, alphabet: Alphabet, texts: Callable[[], Sequence[str]]) -> Callable[[], Any]:
        """What makes a search for one utterance.

        Args:
            alphabet: of the recogniser.
            texts: the training texts.

        Raises:
            CheckpointError, ConfigError, DataError: the language model cannot be used.
        """
        beam = self.beam
        if beam is None:
            return GreedySearch
        scorers: list[tuple[float, Scorer]] = []
        if self.language_model:
            scorers.append((self.lm_weight, self._language_model(alphabet, texts)))
        if self.hot_words:
            scorers.append((self.hot_boost, HotWords(self.hot_words, alphabet.pieces())))
        return lambda: PrefixSearch(beam, scorers)

    def _language_model(self, alphabet: Alphabet, texts: Callable[[], Sequence[str]]) -> Scorer:
        path = Path(self.language_model)
        if path.is_dir():
            context = read_character_model(path)
            if context.is_backward:
                raise CheckpointError(f"{path}: reads texts from their end; a recogniser needs a forward one.")
            return RecurrentScorer(context.model, context.tokenizer, alphabet.pieces())
        if self.language_model == "train":
            ngram = NGram.learn((text.split() for text in texts()), self.lm_order)
        else:
            ngram = NGram.read_arpa(self.language_model)
        return WordScorer(ngram, alphabet.pieces())


class RecurrentScorer:
    """A recurrent language model of characters as a scorer: it has read a line break before each utterance.

    Args:
        model: in evaluation mode.
        tokenizer: its own.
        pieces: the text of each symbol of the recogniser.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, pieces: Sequence[str]):
        self.model, self.line_break = model.eval(), tokenizer.encode("\n")
        self.tokens = [tokenizer.encode(piece) for piece in pieces]

    def start(self) -> Any:
        """See `search.ctc.Scorer`."""
        return self._read(self.model.initial_state(1), self.line_break)[1:]

    def extend(self, state: Any, symbol: int) -> tuple[float, Any]:
        """See `search.ctc.Scorer`."""
        score, after, chances = self._read(state[0], self.tokens[symbol], state[1])
        return score, (after, chances)

    def finish(self, state: Any) -> float:
        """See `search.ctc.Scorer`."""
        return float(state[1][self.line_break[0]])

    @torch.no_grad()
    def _read(self, state: Any, tokens: Sequence[int], chances: Any = None) -> tuple[float, Any, Any]:
        """Reads tokens; returns their log-probability, the state, and the log-probabilities of the next one."""
        total = 0.0
        for token in tokens:
            total += 0.0 if chances is None else float(chances[token])
            logits, state = self.model.step(torch.tensor([token]), state)
            chances = logits[0].log_softmax(-1)
        return total, state, chances
