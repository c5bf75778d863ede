"""Translation: two aligned files in, a translator out."""

import math
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from unspool.data import Lines, Tokenizer, build_tokenizer
from unspool.data.buckets import Buckets
from unspool.errors import CheckpointError, DataError
from unspool.models.seq2seq import BEGIN, END, UNKNOWN, Seq2Seq, Translating
from unspool.search import Beam, Draws, Hypothesis, beam_search, sample_sequences
from unspool.tasks.base import BatchSource, Reading, Task
from unspool.tasks.translation.pairs import PairBatches, Pairs, make_batch, read_pairs, source_batch
from unspool.tasks.translation.scores import bleu_and_chrf, bleu_by_length
from unspool.tasks.translation.settings import TranslationData, TranslatorSettings, is_table
from unspool.tasks.translation.symbols import Symbols, read_symbols, write_symbols
from unspool.types import Int, Tensor

_FILE = "symbols.json"
_AT_ONCE = 1500  # source symbols translated side by side, padding included


class Translation(Task):
    """Reading a sentence in one language and writing it in another."""

    name = "translation"
    sections = {"data": TranslationData, "model": TranslatorSettings}
    unit = "symbols"
    criterion = "nats_per_unit"
    inputs = ("source", "target")

    def __init__(self, settings: Mapping[str, Any], source: Symbols, target: Symbols, folder: Path):
        self.data: TranslationData = settings["data"]
        self.model: TranslatorSettings = settings["model"]
        self.source, self.target, self.folder = source, target, folder

    @classmethod
    def prepare(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        data: TranslationData = settings["data"]
        settings["model"].check()
        (folder / "tokens").mkdir(exist_ok=True)
        train = read_pairs(data.source_train, data.target_train)
        sides = [[pair[side] for pair in train] for side in (0, 1)]
        if data.shared_vocabulary:
            symbols = [Symbols(_tokenizer(data, list(chain(*sides))))]
        else:
            symbols = [Symbols(_tokenizer(data, side)) for side in sides]
        (folder / _FILE).write_text(write_symbols(*symbols), encoding="utf-8")
        task = cls(settings, symbols[0], symbols[-1], folder)
        task._store("train", train, data.source_train)
        if data.source_dev:
            task._store("dev", read_pairs(data.source_dev, data.target_dev), data.source_dev)
        return task

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        path = folder / _FILE
        try:
            symbols = read_symbols(path.read_text(encoding="utf-8"), str(path))
            return cls(settings, symbols[0], symbols[-1], folder)
        except (OSError, ValueError, IndexError, TypeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); the model folder is damaged.") from error

    def build_model(self) -> Seq2Seq:
        sizes, shared = (len(self.source), len(self.target)), self.data.shared_vocabulary
        return Seq2Seq(*sizes, self.model.build_cell, **self.model.options, shared=shared)

    def training_batches(self, seed: int) -> BatchSource:
        return PairBatches(self._stored("train"), self.data.batch_symbols, seed)

    def epochs(self, num_batches: int) -> int:
        return max(20, math.ceil(3000 / num_batches))

    def validate(self, model: Seq2Seq) -> dict[str, float] | None:
        if not self.data.source_dev:
            return None
        return self._measure(model, PairBatches(self._stored("dev"), self.data.batch_symbols))

    def evaluate(self, model: Seq2Seq, data: str, beam: Beam = Beam()) -> dict[str, Any]:
        """BLEU and chrF of a search's translations, and perplexity, on aligned files.

        Args:
            model: the translator.
            data: source and target with a tab between, or a ``.tsv``.
            beam: how to search.

        Raises:
            DataError: the files are missing, empty or not aligned.
            ConfigError: the package sacrebleu is not installed.
        """
        pairs = _named_pairs(data)
        if not pairs:
            raise DataError(f"{data}: no lines to translate.")
        sources, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        bleu_and_chrf(["a"], ["a"])  # what is not installed is missed before the work
        found = [best[0][0] for best in self.translate(model, sources, beam)]
        encoded = Pairs.of([self.source.encode(s) for s in sources], [self.target.encode(t) for t in references])
        lengths = [len(source.split()) for source in sources]
        return {
            **bleu_and_chrf(found, references),
            **self._measure(model, PairBatches(encoded, self.data.batch_symbols)),
            "num_sentences": len(pairs),
            "beam_size": beam.size,
            "by_source_words": bleu_by_length(found, references, lengths),
        }

    def reading(self, data: str, num_steps: int, num_sequences: int) -> Reading:
        if data == "validation":
            stored = PairBatches(self._stored("dev"), self.data.batch_symbols)
            sources, targets = stored.sides(np.argsort(-stored.pairs.source_lengths, kind="stable")[:num_sequences])
        else:
            longest = sorted(_named_pairs(data), key=lambda pair: -len(pair[0]))[:num_sequences]
            sources = [self.source.encode(pair[0]) for pair in longest]
            targets = [self.target.encode(pair[1]) for pair in longest]
        if not sources:
            raise DataError(f"{data}: no pairs to read.")
        batch = make_batch([row[:num_steps] for row in sources], [row[:num_steps] for row in targets])
        symbols = [*self.source.pieces(sources[0][:num_steps]), "(end)"]
        return Reading(batch, f"the {len(sources)} longest pairs of {data}", symbols, None, "encoder")

    def summary(self, values: dict[str, Any]) -> list[str]:
        lengths = [
            f"  {name:>8s} source words: sacrebleu {row['sacrebleu']:5.1f} of {row['sentences']:,} sentences"
            for name, row in values["by_source_words"].items()
        ]
        return [*super().summary(values), *lengths, f"sacreBLEU: {values['signatures']['sacrebleu']}"]

    def predictor(self, model: Seq2Seq) -> Any:
        from unspool.tasks.translation.trained import TrainedTranslator  # which knows this task

        return TrainedTranslator(self, model)

    def translate(
        self, model: Seq2Seq, lines: Sequence[str], how: Beam | Draws, keep_attention: bool = False
    ) -> list[list[tuple[str, Hypothesis]]]:
        """For each line its best translations with what the search says of them; an empty line stays empty."""
        encoded = [self.source.encode(line.strip()) for line in lines]
        found = [[("", Hypothesis([], 0.0, 0.0, None))] for _ in lines]
        for rows, source, lengths in self.batches(encoded):
            best = self.search(model, source, lengths, how, keep_attention or self._replaces)
            for row, hypotheses in zip(rows, best, strict=True):
                found[row] = [(self._text(one, lines[row]), one) for one in hypotheses]
        return found

    def batches(self, encoded: Sequence[list[int]]) -> list[tuple[list[int], Int[Tensor, "S B"], Int[Tensor, " B"]]]:
        """Sources of like length side by side: their places, the sources and their lengths; empty ones are left out."""
        full = [place for place, row in enumerate(encoded) if row]
        buckets = Buckets([len(encoded[place]) + 1 for place in full], _AT_ONCE)
        groups = [[full[row] for row in buckets.rows(0, index)] for index in range(len(buckets))]
        return [(rows, *source_batch([encoded[row] for row in rows])) for rows in groups]

    @torch.no_grad()
    def search(
        self,
        model: Seq2Seq,
        source: Int[Tensor, "S B"],
        lengths: Int[Tensor, " B"],
        how: Beam | Draws,
        keep_attention: bool = False,
    ) -> list[list[Hypothesis]]:
        """The hypotheses of each of some sources side by side, the best first; draws keep no attention."""
        model.eval()
        lengths = lengths.to(model.bias.device)
        first, longest = torch.full_like(lengths, BEGIN), 2 * lengths + 10
        with torch.autocast(lengths.device.type, torch.bfloat16, enabled=how.precision == "bfloat16"):
            work = Translating(model, source.to(lengths.device), lengths)
            if isinstance(how, Draws):
                return sample_sequences(work, work.start, first, END, longest, how, (*self.target.never, UNKNOWN))
            return beam_search(work, work.start, first, END, longest, how, self.target.never, keep_attention)

    @property
    def _replaces(self) -> bool:
        """Whether unknown words are replaced by what the model looked at."""
        return self.data.unit == "word" and self.model.attention != "none"

    def _text(self, hypothesis: Hypothesis, line: str) -> str:
        if not self._replaces or UNKNOWN not in hypothesis.tokens or hypothesis.attention is None:
            return self.target.decode(hypothesis.tokens).strip()
        words, looked = line.split(), hypothesis.attention.argmax(-1).tolist()
        return " ".join(
            words[min(place, len(words) - 1)] if token == UNKNOWN else self.target.decode([token])
            for token, place in zip(hypothesis.tokens, looked, strict=False)
        )

    @torch.no_grad()
    def _measure(self, model: Seq2Seq, batches: PairBatches) -> dict[str, float]:
        model.eval()
        nats, count = 0.0, 0
        for index in range(len(batches)):
            loss = model.loss(batches.batch(0, index).to(model.bias.device))
            nats, count = nats + float(loss.sum), count + loss.count
        return {"nats_per_unit": nats / count, "perplexity": math.exp(min(nats / count, 700.0))}

    def _store(self, split: str, pairs: Sequence[tuple[str, str]], name: str) -> None:
        """Writes pairs as numbers; those that are empty, too long or too unlike are left out of training, and counted."""
        kept, reasons = [], {"with an empty side": 0, "too long": 0, "too unlike in length": 0}
        for source, target in pairs:
            row = self.source.encode(source), self.target.encode(target)
            short, long = sorted(map(len, row))
            if not short:
                reasons["with an empty side"] += 1
            elif split == "train" and long > self.data.longest:
                reasons["too long"] += 1
            elif split == "train" and long > self.data.widest_ratio * short and long > 10:
                reasons["too unlike in length"] += 1
            else:
                kept.append(row)
        for reason, count in reasons.items():
            if count:
                print(f"{name}: {count:,} of {len(pairs):,} pairs left out, {reason}.", file=sys.stderr)
        if not kept:
            raise DataError(f"{name}: no pairs are left; a translator needs two aligned files with a sentence a line.")
        Pairs.of([row[0] for row in kept], [row[1] for row in kept]).save(self.folder / "tokens" / f"{split}.npz")

    def _stored(self, split: str) -> Pairs:
        return Pairs.load(self.folder / "tokens" / f"{split}.npz")


def _named_pairs(data: str) -> list[tuple[str, str]]:
    source, _, target = data.partition("\t")
    if bool(target) == is_table(source):
        raise DataError(f"{source}: expected its translation beside it, or a .tsv with both languages alone.")
    return read_pairs(source, target)


def _tokenizer(data: TranslationData, lines: Sequence[str]) -> Tokenizer:
    return build_tokenizer(data.unit, Lines(lines), data.vocabulary_size, 1 if data.unit == "bpe" else data.min_count)
