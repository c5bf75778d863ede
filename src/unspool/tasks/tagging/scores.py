"""How well tags were predicted: accuracies, CoNLL 2018's metrics, spans as conlleval counts them, tables and confusions.

With gold words, the F1 of CoNLL 2018 (Zeman et al. 2018, universaldependencies.org/conll18/evaluation.html) are
accuracies, in percent; features are compared as far as they are universal ones.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from unspool.data.spans import spans_of
from unspool.errors import DataError
from unspool.tasks.tagging.assets import Assets

_UNIVERSAL_FEATURES = frozenset(
    [
        "PronType",
        "NumType",
        "Poss",
        "Reflex",
        "Foreign",
        "Abbr",
        "Gender",
        "Animacy",
        "Number",
        "Case",
        "Definite",
        "Degree",
        "VerbForm",
        "Mood",
        "Tense",
        "Aspect",
        "Voice",
        "Evident",
        "Polarity",
        "Person",
        "Polite",
    ]
)
_SHOWN = 30  # rows of a table that people read
_OFFICIAL = {"upos": "UPOS", "xpos": "XPOS", "feats": "UFeats"}


class Scores:
    """Counts over sentences, in any number of portions.

    Args:
        assets: the targets, and which words training has shown.
        is_conllu: the columns are those of CoNLL-U.
    """

    def __init__(self, assets: Assets, is_conllu: bool):
        self.assets = assets
        self.confusion = {target.name: Counter[tuple[str, str]]() for target in assets.targets}
        self.spans = {target.name: (Counter[str](), Counter[str](), Counter[str]()) for target in assets.targets}
        self.unknown_right, self.official = Counter[str](), Counter[str]()
        self.names = _OFFICIAL if is_conllu else {}
        self.num_words = self.num_unknown = self.num_sentences = self.whole = 0

    def add(self, words: Sequence[str], gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> None:
        """Counts one sentence; `gold` and `found` hold a tag of every word for each target."""
        self.num_sentences += 1
        self.num_words += len(words)
        unknown = [place for place, word in enumerate(words) if not self.assets.has_seen(word)]
        self.num_unknown += len(unknown)
        right = [[a == b for a, b in zip(*pair, strict=True)] for pair in zip(gold, found, strict=True)]
        self.whole += sum(map(all, zip(*right, strict=True)))
        official: dict[str, list[bool]] = {}
        for target, own, wanted, hits in zip(self.assets.targets, found, gold, right, strict=True):
            self.confusion[target.name].update(zip(wanted, own, strict=True))
            self.unknown_right[target.name] += sum(hits[place] for place in unknown)
            if target.scheme:
                self._count_spans(target.name, wanted, own)
            if target.name in self.names:
                same = hits
                if target.name == "feats":
                    same = [_universal(a) == _universal(b) for a, b in zip(wanted, own, strict=True)]
                official[self.names[target.name]] = same
        if official and len(official) == len(self.names):
            official["AllTags"] = [all(hits) for hits in zip(*official.values(), strict=True)]
        for name, hits in official.items():
            self.official[name] += sum(hits)

    def _count_spans(self, name: str, wanted: Sequence[str], own: Sequence[str]) -> None:
        gold, found = set(spans_of(wanted)), set(spans_of(own))
        for counter, spans in zip(self.spans[name], (gold, found, gold & found), strict=True):
            counter.update(span.label for span in spans)

    def values(self, source: str) -> dict[str, Any]:
        """All figures; `docs/tagging.md` says what each key means.

        Args:
            source: what was read, for the error.

        Raises:
            DataError: nothing was counted.
        """
        if not self.num_words:
            raise DataError(f"{source}: no words to measure on; expected sentences in columns.")
        figures: dict[str, Any] = {}
        errors = []
        for target in self.assets.targets:
            pairs, name = self.confusion[target.name], target.name
            accuracy = sum(n for (a, b), n in pairs.items() if a == b) / self.num_words
            if target.scheme:
                gold, found, right = (counts.total() for counts in self.spans[name])
                figures |= {
                    f"{name}_{key}": value for key, value in _rates(gold, found, right).items() if key != "count"
                }
            figures[f"{name}_accuracy"] = accuracy
            if self.num_unknown:
                figures[f"{name}_accuracy_on_unknown_words"] = self.unknown_right[name] / self.num_unknown
            errors.append(1 - figures.get(f"{name}_f1", accuracy))
        figures["all_tags_accuracy"] = self.whole / self.num_words
        figures["error"] = sum(errors) / len(errors)
        counts = {"num_sentences": self.num_sentences, "num_words": self.num_words, "num_unknown": self.num_unknown}
        return {
            **figures,
            **counts,
            "conll18": {name: 100 * n / self.num_words for name, n in self.official.items()},
            "tags": {name: self._table(pairs) for name, pairs in self.confusion.items()},
            "spans": {t.name: self._span_table(t.name) for t in self.assets.targets if t.scheme},
            "confusion": {name: _mistakes(pairs) for name, pairs in self.confusion.items()},
        }

    def _table(self, pairs: Counter[tuple[str, str]]) -> dict[str, dict[str, float]]:
        gold, found, right = Counter[str](), Counter[str](), Counter[str]()
        for (wanted, own), n in pairs.items():
            gold[wanted] += n
            found[own] += n
            right[own] += n * (wanted == own)
        return {tag: _rates(gold[tag], found[tag], right[tag]) for tag in _by_count(gold | found, gold)}

    def _span_table(self, name: str) -> dict[str, dict[str, float]]:
        gold, found, right = self.spans[name]
        return {label: _rates(gold[label], found[label], right[label]) for label in _by_count(gold | found, gold)}


def summary(values: dict[str, Any]) -> list[str]:
    """What `Scores.values` found, as lines for people."""
    lines = [
        f"{name:34s} {value:,.4f}" if isinstance(value, float) else f"{name:34s} {value:,}"
        for name, value in values.items()
        if isinstance(value, (int, float))
    ]
    if values["conll18"]:
        lines.append("CoNLL 2018, percent: " + "  ".join(f"{name} {n:.2f}" for name, n in values["conll18"].items()))
    for kind in ("spans", "tags"):
        for name, table in values[kind].items():
            lines += ["", f"{name}, {kind}           precision  recall      f1   count"]
            lines += [
                f"  {tag[:24]:24s}  {r['precision']:6.4f}  {r['recall']:6.4f}  {r['f1']:6.4f}  {r['count']:6,}"
                for tag, r in list(table.items())[:_SHOWN]
            ]
            lines += [f"  ... and {len(table) - _SHOWN} more (--json names them all)"] if len(table) > _SHOWN else []
    for name, mistakes in values["confusion"].items():
        lines += ["", f"{name}, commonest mistakes (of {sum(n for *_, n in mistakes):,})"]
        lines += [f"  {n:6,}  {gold} taken for {found}" for gold, found, n in mistakes[:10]]
    return lines


def _rates(gold: int, found: int, right: int) -> dict[str, float]:
    return {
        "precision": right / found if found else 0.0,
        "recall": right / gold if gold else 0.0,
        "f1": 2 * right / (gold + found) if gold + found else 0.0,
        "count": gold,
    }


def _mistakes(pairs: Counter[tuple[str, str]]) -> list[tuple[str, str, int]]:
    wrong = [(gold, found, n) for (gold, found), n in pairs.items() if gold != found]
    return sorted(wrong, key=lambda one: (-one[2], one[0], one[1]))


def _by_count(tags: Iterable[str], counts: Counter[str]) -> list[str]:
    return sorted(tags, key=lambda tag: (-counts[tag], tag))


def _universal(features: str) -> frozenset[str]:
    return frozenset(f for f in features.split("|") if f.partition("=")[0] in _UNIVERSAL_FEATURES)
