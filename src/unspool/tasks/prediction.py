"""From a file to predictions, for every task that has some: each model takes the options that mean something to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch

from unspool.config import require
from unspool.errors import CheckpointError, ConfigError
from unspool.search import Beam, Draws, Sampling
from unspool.search.ctc import PrefixBeam
from unspool.tasks.speech import Listening, TrainedRecognizer
from unspool.tasks.tagging import TrainedTagger
from unspool.tasks.translation import TrainedTranslator

_TAGGING = {"n_best", "text", "skip_bad"}
_BEAM = {"beam_size": "size", "n_best": "num_best", "precision": "precision"} | {
    f.name: f.name for f in fields(Beam) if "penalty" in f.name or "ngram" in f.name
}
_SAMPLING = {f.name for f in fields(Sampling)}
_DRAWS = {*_SAMPLING, "seed"}
_TRANSLATION = {*_BEAM, *_DRAWS, "scores", "attention"}


_LISTENING = {f.name for f in fields(Listening)} - {"beam"}
_BEAM_OF_PREFIXES = {"beam_size": "size", "symbol_bonus": "symbol_bonus"}
LISTENING_OPTIONS = {*_LISTENING, *_BEAM_OF_PREFIXES}
"""How a recogniser searches, as the command line names it."""
_SPEECH = {*LISTENING_OPTIONS, "format", "raw_rate", "skip_bad"}


def listening(options: Mapping[str, Any]) -> Listening:
    """How a recogniser searches, from what the command line names."""
    chosen = {name: options[name] for name in _LISTENING & options.keys()}
    beam = {field: options[name] for name, field in _BEAM_OF_PREFIXES.items() if name in options}
    return Listening(PrefixBeam(**beam) if beam else None, **chosen)


def predict(model: Any, sources: Sequence[str], **options: Any) -> Iterator[str]:
    """The predictions of a trained model on files, piece by piece.

    Args:
        model: what `unspool.load` gave.
        sources: files, or ``-`` for standard input; one, but for a recogniser.
        options: as the command line names them; only those that were given.

    Raises:
        CheckpointError: the model predicts nothing of files.
        ConfigError: an option means nothing to this model, or has a wrong value.
        DataError: the file cannot be read.
    """
    if isinstance(model, TrainedRecognizer):
        _refuse(options, _SPEECH, "recogniser")
        own = {new: options[name] for name, new in (("format", "form"), ("raw_rate", "raw_rate"), ("skip_bad", "skip_bad"))
               if name in options}  # fmt: skip
        return model.predict(sources, listening=listening(options), **own)
    if len(sources) > 1:
        raise ConfigError(f"predict: expected one file, got {len(sources)}; only a recogniser takes several.")
    (source,) = sources
    if isinstance(model, TrainedTagger):
        _refuse(options, _TAGGING, "tagger")
        skip, is_text = bool(options.get("skip_bad")), bool(options.get("text"))
        if "n_best" in options:
            return model.predict_nbest(source, options["n_best"], is_text, skip)
        return model.predict_text(source) if is_text else model.predict_file(source, skip)
    if isinstance(model, TrainedTranslator):
        _refuse(options, _TRANSLATION, "translator")
        if _DRAWS & options.keys():
            _refuse(options, {*_DRAWS, "n_best", "scores", "precision"}, "translator that draws")
            sampling = Sampling(**{name: options[name] for name in _SAMPLING & options.keys()})
            seed = options.get("seed", 0)
            require(0 <= seed < 2**63, "seed", seed, "at least 0 and below 2**63")
            generator = torch.Generator().manual_seed(seed)
            draws = Draws(sampling, options.get("n_best", 1), generator, options.get("precision", "float32"))
            return model.predict(source, draws, bool(options.get("scores")))
        chosen = {field: options[name] for name, field in _BEAM.items() if name in options}
        if "size" not in chosen:
            chosen["size"] = max(Beam.size, chosen.get("num_best", 1))
        return model.predict(source, Beam(**chosen), bool(options.get("scores")), options.get("attention"))
    raise CheckpointError("predict: the folder holds a language model; let it write with generate.")


def _refuse(options: dict[str, Any], known: set[str], who: str) -> None:
    for name in options.keys() - known:
        raise ConfigError(f"predict: --{name.replace('_', '-')} means nothing to a {who}.")
