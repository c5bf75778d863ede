"""How good translations are: BLEU (Papineni et al. 2002) and chrF (Popovic 2015), as sacreBLEU computes them."""

from collections.abc import Sequence
from typing import Any

from unspool.errors import ConfigError


def bleu_and_chrf(found: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """BLEU on cased text and on lower-cased one, and chrF, all of 100, with sacreBLEU's signatures.

    Raises:
        ConfigError: the package sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise ConfigError(
            "BLEU needs the package sacrebleu; install it with pip install 'unspool[translation]'."
        ) from error
    cased, lower, chrf = BLEU(), BLEU(lowercase=True), CHRF()
    metrics = {"sacrebleu": cased, "bleu_lowercased_tokenized": lower, "chrf": chrf}
    values = {
        name: float(metric.corpus_score(list(found), [list(references)]).score) for name, metric in metrics.items()
    }
    return {**values, "signatures": {name: str(metric.get_signature()) for name, metric in metrics.items()}}


def bleu_by_length(
    found: Sequence[str], references: Sequence[str], lengths: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Cased BLEU of the sentences whose source has so many words."""
    from sacrebleu.metrics.bleu import BLEU

    bounds = (0, 8, 12, 16, 20, 30, 10**9)
    values = {}
    for low, high in zip(bounds[:-1], bounds[1:], strict=True):
        rows = [row for row, length in enumerate(lengths) if low < length <= high]
        if rows:
            score = BLEU().corpus_score([found[r] for r in rows], [[references[r] for r in rows]]).score
            name = f"{low + 1}-{high}" if high < 10**9 else f"over {low}"
            values[name] = {"sentences": len(rows), "sacrebleu": float(score)}
    return values
