"""Looking at a treebank before training: every problem with its line, and what the files hold."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from unspool.data.columns import ColumnFormat, Sentence, parse_format
from unspool.data.spans import detect_scheme, misplaced, stray_tags
from unspool.tasks.checked import Checked
from unspool.tasks.tagging.files import sentences_of
from unspool.tasks.tagging.settings import TaggingData


class _File:
    """One file, read once."""

    def __init__(self, source: str, kind: ColumnFormat, targets: Sequence[str]):
        self.source, self.kind = source, kind
        self.problems: list[str] = []
        self.words, self.sentences = Counter[str](), Counter[tuple[str, ...]]()
        self.longest, self.longest_line, self.num_words, self.num_sentences = 0, 0, 0, 0
        self.columns: dict[str, list[list[str]]] = {name: [] for name in targets}
        self.tags = {name: Counter[str]() for name in targets}
        self.word_lines: list[list[int]] = []
        for sentence in sentences_of(source, kind):
            if sentence.problem:
                self.problems.append(sentence.problem)
            elif sentence.rows:
                self._take(sentence)
        if not self.num_words:
            self.problems.append(f"{source}: no words.")
        self.schemes = {name: detect_scheme(column) for name, column in self.columns.items()}

    def _take(self, sentence: Sentence) -> None:
        form = sentence.column(self.kind.place("form"))
        lines = [sentence.first_line + row for row in sentence.rows]
        self.num_sentences, self.num_words = self.num_sentences + 1, self.num_words + len(form)
        self.words.update(word.lower() for word in form)
        self.sentences[tuple(form)] += 1
        if len(form) > self.longest:
            self.longest, self.longest_line = len(form), lines[0]
        for name, column in self.columns.items():
            column.append(sentence.column(self.kind.place(name)))
            self.tags[name].update(column[-1])
        self.word_lines.append(lines)

    def span_problems(self, name: str, scheme: str) -> list[str]:
        """Tags of spans that contradict the scheme."""
        found = []
        for tags, lines in zip(self.columns[name], self.word_lines, strict=True):
            for place in misplaced(tags, scheme):
                at = min(place, len(tags) - 1)
                before = tags[place - 1] if place else "the beginning"
                after = tags[place] if place < len(tags) else "the end"
                found.append(f"{self.source}:{lines[at]}: {name} {after} after {before} is no {scheme.upper()}")
        return found

    def values(self) -> dict[str, Any]:
        """Its counts."""
        return {
            "sentences": self.num_sentences,
            "words": self.num_words,
            "different words": len(self.words),
            "words that occur once": sum(n == 1 for n in self.words.values()),
            "longest sentence": f"{self.longest} words, line {self.longest_line}",
            "repeated sentences": self.num_sentences - len(self.sentences),
            **{f"{name} scheme": scheme.upper() for name, scheme in self.schemes.items() if scheme},
            **{f"{name} tags": dict(self.tags[name].most_common()) for name in self.columns},
        }


def check_files(sources: Sequence[str], kind: str, targets: str) -> Checked:
    """Reads training sentences and, after them, those of other splits.

    Args:
        sources: files; the first is the one to train on.
        kind: their format, as `TaggingData.format`.
        targets: columns to predict, as `TaggingData.targets`.

    Raises:
        DataError: a file is missing or cannot be read.
        ConfigError: the format names no such column.
    """
    names = TaggingData(train=sources[0], format=kind, targets=targets).target_names
    files = [_File(source, parse_format(kind), names) for source in sources]
    first, problems, notes = files[0], [], []
    values: dict[str, Any] = {}
    for file in files:
        problems += file.problems
        values[file.source] = file.values()
        for name in names:
            scheme = first.schemes[name]
            if scheme:
                problems += file.span_problems(name, scheme)
            if stray := stray_tags(file.columns[name]):
                notes.append(f"{file.source}: {name} looks like spans but for the tags {', '.join(stray[:5])}")
            if file.num_words and set(file.tags[name]) == {"_"}:
                notes.append(f"{file.source}: column {name} is _ for every word")
    for file in files[1:]:
        values[file.source] |= _beside(first, file)
        for name in names:
            only = sorted(file.tags[name].keys() - first.tags[name].keys())
            if only:
                count = sum(file.tags[name][tag] for tag in only)
                shown = ", ".join(only[:10]) + (f" and {len(only) - 10} more" if len(only) > 10 else "")
                notes.append(f"{file.source}: {name} has tags that {first.source} has not, {count} words: {shown}")
    return Checked(problems, notes, values)


def _beside(first: _File, file: _File) -> Mapping[str, Any]:
    """A split beside the one to train on."""
    unknown = sum(n for word, n in file.words.items() if word not in first.words)
    shared = sum(n for sentence, n in file.sentences.items() if sentence in first.sentences)
    return {
        "unknown words": f"{100 * unknown / max(1, file.num_words):.1f} %",
        f"sentences also in {first.source}": shared,
    }
