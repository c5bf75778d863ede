"""A language model small enough to be trained in a test."""

from unspool import checkpoint
from unspool.config import build_settings
from unspool.tasks import LanguageModeling
from unspool.training import SECTIONS, Trainer

SMALL = {"hidden_size": 16, "embedding_size": 8, "num_layers": 1, "batch_size": 4, "bptt_steps": 16}
SMALL |= {"dropout": 0.0, "output_dropout": 0.0, "max_steps": 4, "learning_rate": 0.01}
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60


def make(folder, **flags):
    source = folder / "text.txt"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(TEXT, encoding="utf-8")
    sections = {**LanguageModeling.sections, **SECTIONS}
    settings = build_settings(sections, flags={**SMALL, "data": str(source), **flags})
    task = checkpoint.create_folder(folder / "model", LanguageModeling, settings, "test")
    return task, Trainer(task, settings["training"], folder / "model", quiet=True)


def trained(folder, **flags):
    _, trainer = make(folder, **flags)
    trainer.run()
    return checkpoint.load(folder / "model")


def reopen(folder):
    """A new trainer on a folder that `make` prepared."""
    opened = checkpoint.open_folder(folder / "model")
    settings = checkpoint.stored_settings(SECTIONS, opened.settings, folder)
    return Trainer(opened.task, settings["training"], folder / "model", quiet=True)
