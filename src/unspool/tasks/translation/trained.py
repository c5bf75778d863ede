"""A trained translator as a user holds it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unspool.errors import ConfigError
from unspool.files import in_portions, read_lines, write_whole
from unspool.search import Beam, Draws, Hypothesis
from unspool.tasks.translation.report import alignment_page
from unspool.tasks.translation.task import Translation

_AT_ONCE = 500  # lines read before they are translated
_SHOWN = 200  # sentences of an attention report, at most


class TrainedTranslator:
    """A translator as a user holds it.

    Attributes:
        task: its data settings and vocabularies.
        model: the network, in evaluation mode.
    """

    def __init__(self, task: Translation, model: Any):
        self.task, self.model = task, model.eval()

    def translate(self, line: str, how: Beam | Draws = Beam()) -> str:
        """The best translation of a sentence."""
        return self.task.translate(self.model, [line], how)[0][0][0]

    def hypotheses(self, line: str, how: Beam | Draws) -> list[tuple[str, float]]:
        """The `how.num_best` best translations of a sentence, the best first, with their log-probabilities in nats."""
        return [(text, one.log_probability) for text, one in self.task.translate(self.model, [line], how)[0]]

    def predict(
        self, source: str, how: Beam | Draws = Beam(), scores: bool = False, attention: Path | None = None
    ) -> Iterator[str]:
        """A line of text for each line of a file; with n-best or scores a line of JSON.

        Args:
            source: a file, or ``-``.
            how: to search, or to draw.
            scores: give scores too.
            attention: where to write a page that shows where the model looked, for the first 200 lines.

        Raises:
            ConfigError: attention is asked for, or its penalty, of a translator without it.
            DataError: the file cannot be read.
        """
        if self.model.attention is None and (attention or (isinstance(how, Beam) and how.coverage_penalty)):
            raise ConfigError("this translator has no attention; leave out the page of it and the coverage penalty.")
        shown: list[tuple[list[str], list[str], Any]] = []
        for lines in in_portions(read_lines(source), _AT_ONCE):
            found = self.task.translate(self.model, lines, how, attention is not None)
            for line, ways in zip(lines, found, strict=True):
                best = ways[0][1]
                if attention and best.attention is not None and len(shown) < _SHOWN:
                    pieces = [*self.task.source.pieces(self.task.source.encode(line.strip())), "end"]
                    shown.append(
                        (pieces, [*self.task.target.pieces(best.tokens), "end"], best.attention[:, : len(pieces)])
                    )
                yield _line(ways, scores or how.num_best > 1)
        if attention:
            write_whole(attention, iter([alignment_page(source, shown).encode()]))

    def evaluate(self, source: str, target: str = "", beam: Beam = Beam()) -> dict[str, Any]:
        """Figures on aligned files; see `Translation.evaluate`."""
        return self.task.evaluate(self.model, f"{source}\t{target}" if target else source, beam)


def _line(ways: list[tuple[str, Hypothesis]], as_json: bool) -> str:
    if not as_json:
        return " ".join(ways[0][0].splitlines()) + "\n"
    rows = [{"text": text, "score": one.score, "log_probability": one.log_probability} for text, one in ways]
    return json.dumps(rows, ensure_ascii=False) + "\n"
