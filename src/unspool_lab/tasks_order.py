"""Order is the information: what a model of sequences knows is lost when time is shuffled."""

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from unspool.checkpoint import create_folder
from unspool.config import build_settings
from unspool.diagnostics import COLOURS
from unspool.tasks import LanguageModeling
from unspool.training import SECTIONS, Trainer
from unspool_lab.experiment import Experiment, Figure, Result, Row, Say

_LENGTH = 40_000  # characters to measure on
_SETTINGS: dict[str, Any] = {
    "cell": "gru", "hidden_size": 192, "num_layers": 1, "embedding_size": 48, "batch_size": 32, "bptt_steps": 64,
    "max_steps": 700, "learning_rate": 5e-3, "dropout": 0.0, "output_dropout": 0.0, "average": "none",
    "validation_share": 0.0, "test_share": 0.1,
}  # fmt: skip


def _orders(text: str, seed: int) -> dict[str, str]:
    """The same characters in other orders, from what was to nothing left of it."""
    generator = np.random.default_rng(seed)

    def shuffled(parts: list[str]) -> list[str]:
        return [parts[i] for i in generator.permutation(len(parts))]

    return {
        "as it was": text,
        "lines shuffled": "".join(shuffled(text.splitlines(keepends=True))),
        "words shuffled": " ".join(shuffled(text.split(" "))),
        "characters shuffled": "".join(shuffled(list(text))),
    }


def run(seed: int, say: Say) -> Result:
    """A character model of the text that Python comes with, on held-out text in four orders."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        flags = {**_SETTINGS, "seed": seed}
        settings = build_settings({**LanguageModeling.sections, **SECTIONS}, flags=flags)
        task: Any = create_folder(folder / "model", LanguageModeling, settings, "lab")
        say(f"a GRU of {flags['hidden_size']} units learns characters for {flags['max_steps']} updates")
        trainer = Trainer(task, settings["training"], folder / "model", quiet=True)
        trainer.run()
        file = task.files["test"]
        text = task.tokenizer.decode(file.tokens()[:_LENGTH].tolist())
        counts = Counter(text)
        entropy = -math.fsum(n / len(text) * math.log2(n / len(text)) for n in counts.values())
        rows: list[Row] = []
        for order, changed in _orders(text, seed).items():
            say(f"measuring: {order}")
            (folder / "text.txt").write_text(changed, encoding="utf-8", newline="")
            bits = task.evaluate(trainer.model, str(folder / "text.txt"))["bits_per_character"]
            rows.append({"order": order, "bits_per_character": bits, "entropy_of_characters": entropy})
    bits = [float(r["bits_per_character"]) for r in rows]  # type: ignore[arg-type]
    holds = bits[0] < entropy < bits[-1] and bits == sorted(bits)
    words = (
        f"In order, a character costs {bits[0]:.2f} bits; without any order it costs {bits[-1]:.2f}, more than the "
        f"{entropy:.2f} bits that counting characters costs: all that the model knows is in the order, and pairs (x_t, y_t) of a "
        "sequence are no independent examples."
    )

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.barh([str(r["order"]) for r in rows][::-1], bits[::-1], color=COLOURS[0])
        axes.axvline(entropy, color=COLOURS[3], lw=1, ls="--", label="entropy of single characters")
        axes.set(xlabel="bits per character")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    return Result(rows, words, holds, [Figure("Order", "The same characters, the same model.", paint, 2.2)])


EXPERIMENT = Experiment(
    "tasks-order", "The pairs of a sequence are ordered and dependent: whoever shuffles time destroys what a model of it knows.", run
)  # fmt: skip
