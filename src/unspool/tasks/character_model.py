"""A trained language model of characters, for tasks that read with it."""

import json
from pathlib import Path

from unspool.config import settings_from_dict
from unspool.errors import CheckpointError, ConfigError
from unspool.models.contextual import CharacterContext
from unspool.tasks.language_modeling import LanguageModeling
from unspool.tensor_file import load_tensors, restore_parameters

KEPT = ("model.json", "tokenizer.json", "weights.safetensors")
"""What of a language model's folder is needed."""


def read_character_model(folder: Path) -> CharacterContext:
    """A language model from its folder.

    Raises:
        CheckpointError: the folder is missing, damaged, or holds something else.
        ConfigError: the model reads neither characters nor bytes.
    """
    try:
        card = json.loads((folder / KEPT[0]).read_text(encoding="utf-8"))
        if card["task"] != LanguageModeling.name:
            raise CheckpointError(f"{folder}: holds a model for {card['task']}, expected one for language-modeling.")
        sections = {name: card["settings"].get(name, {}) for name in LanguageModeling.sections}
        settings = settings_from_dict(LanguageModeling.sections, sections, str(folder / KEPT[0]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{folder}: not a folder of a language model ({error}).") from error
    task = LanguageModeling.restore(settings, folder)
    if task.tokenizer.unit not in ("character", "byte"):
        raise ConfigError(f"{folder}: a language model of {task.unit}; only one of characters or bytes will do.")
    model = task.build_model()
    weights = folder / KEPT[2]
    restore_parameters(model, load_tensors(weights).tensors, str(weights))
    return CharacterContext(model, task.tokenizer, task.is_backward)
