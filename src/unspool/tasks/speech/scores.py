"""How much was misheard: word and character error rates as jiwer counts them, and where."""

from collections.abc import Sequence
from typing import Any

from unspool.data.audio import speech_package


def error_rates(texts: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    """Substitutions, deletions and insertions over the words (characters) that were said, of all texts together."""
    jiwer = speech_package("jiwer")
    rates = dict.fromkeys(("word_error_rate", "character_error_rate"), float(any(found)))  # where nothing was said
    if any(texts):
        rates["word_error_rate"] = float(jiwer.process_words(list(texts), list(found)).wer)
        rates["character_error_rate"] = float(jiwer.process_characters(list(texts), list(found)).cer)
    return rates


def worst(names: Sequence[str], texts: Sequence[str], found: Sequence[str], count: int = 5) -> list[dict[str, Any]]:
    """The recordings with most wrong words, each with what was said above what was heard."""
    jiwer = speech_package("jiwer")
    rows = []
    for name, text, heard in zip(names, texts, found, strict=True):
        output = jiwer.process_words([text], [heard])
        errors = output.substitutions + output.deletions + output.insertions
        if errors:
            shown = jiwer.visualize_alignment(output, show_measures=False, skip_correct=False)
            alignment = "\n".join(line for line in shown.splitlines()[1:] if line.strip())
            rows.append({"name": name, "errors": errors, "text": text, "heard": heard, "alignment": alignment})
    return sorted(rows, key=lambda row: -row["errors"])[:count]
