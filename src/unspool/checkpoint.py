"""Model folders: settings, weights, assets and training state; atomic, hashed, never pickled code.

::

    DIR/model.json            format, version, task, settings                     written once
        tokenizer.json ...    the task's assets                                   written once
        tokens/               the encoded training data, so that a run goes on without the user's files
        weights.safetensors   the best weights so far, what `load` reads          replaced whole
        last.safetensors      all that an exact resume needs                      replaced whole
        metrics.jsonl         one line for each report

Every tensor file is written beside its place, flushed to disk and then renamed, so that a kill at any moment leaves
the old file or the new one; its SHA-256 is in its own header.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from unspool.config import Sections, Settings, settings_from_dict, settings_to_dict
from unspool.errors import CheckpointError, ConfigError, did_you_mean
from unspool.files import flush
from unspool.tasks import TASKS, Task
from unspool.tensor_file import load_tensors, restore_parameters

FORMAT = 1
MODEL, WEIGHTS, LAST, METRICS = "model.json", "weights.safetensors", "last.safetensors", "metrics.jsonl"


def create_folder(folder: Path, task: type[Task], settings: Settings, version: str) -> Task:
    """Prepares the data of a new run and writes all of the folder but weights.

    Raises:
        CheckpointError: the folder already holds a model, or cannot be written.
    """
    if (folder / MODEL).exists():
        raise CheckpointError(
            f"{folder}: already holds a model; add --resume to go on with it, or name another folder with --out."
        )
    for name in (WEIGHTS, LAST):
        if (folder / name).exists():
            raise CheckpointError(f"{folder}: holds {name} but no {MODEL}; name another folder with --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        prepared = task.prepare(settings, folder)
        for path in folder.rglob("*"):
            if path.is_file():
                flush(path)
        card = {"format": FORMAT, "unspool": version, "task": task.name, "settings": settings_to_dict(settings)}
        beside = folder / (MODEL + ".new")
        beside.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        flush(beside)
        os.replace(beside, folder / MODEL)  # the last: a folder with this file is a whole one
        flush(folder)
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder}: cannot be written ({error.strerror}).") from error
    return prepared


class ModelFolder(NamedTuple):
    """What a folder holds: its task, and all settings as they were stored."""

    task: Task
    settings: dict[str, dict[str, Any]]


def open_folder(folder: Path, task: str | None = None) -> ModelFolder:
    """The task of a model folder.

    Args:
        folder: what `create_folder` made.
        task: name of the task that is expected; any, if None.

    Raises:
        CheckpointError: no model folder, a damaged one, or one of another task.
    """
    path = folder / MODEL
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; train a model with --out {folder} first.")
    if not path.exists():
        raise CheckpointError(f"{folder}: not a model folder (it holds no {MODEL}).")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        name, stored, number = card["task"], dict(card["settings"]), card["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the file is damaged ({type(error).__name__}: {error}).") from error
    if number != FORMAT:
        raise CheckpointError(f"{path}: format {number}, this version of unspool reads format {FORMAT}.")
    if task is not None and name != task:
        raise CheckpointError(f"{folder}: holds a model for {name}, expected one for {task}.")
    if str(name) not in TASKS:
        raise CheckpointError(f"{path}: task {name!r} is not known{did_you_mean(str(name), TASKS)}.")
    settings = stored_settings(TASKS[name].sections, stored, path)
    return ModelFolder(TASKS[name].restore(settings, folder), stored)


def stored_settings(sections: Sections, stored: Mapping[str, Any], path: Path) -> Settings:
    """Some sections of the settings in a model folder.

    Raises:
        CheckpointError: they are damaged, or of another version.
    """
    try:
        return settings_from_dict(sections, {name: stored.get(name, {}) for name in sections}, str(path))
    except ConfigError as error:
        raise CheckpointError(f"{error} The model is damaged, or was made by another version of unspool.") from error


def load(folder: Path, task: str | None = None) -> Any:
    """A trained model from its folder, ready to use.

    Args:
        folder: what `create_folder` made, with weights.
        task: name of the task that is expected; any, if None.

    Raises:
        CheckpointError: the folder is missing, damaged, or of another format.
    """
    loaded = load_model(folder, task)
    return loaded.task.predictor(loaded.model)


class LoadedModel(NamedTuple):
    """A task, its trained model in evaluation mode, and all settings as they were stored."""

    task: Task
    model: Any
    settings: dict[str, dict[str, Any]]


def load_model(folder: Path, task: str | None = None) -> LoadedModel:
    """What `load` makes its answer of; arguments and errors as there."""
    opened = open_folder(folder, task)
    model = opened.task.build_model()
    load_weights(model, folder)
    return LoadedModel(opened.task, model.eval(), opened.settings)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Reads the best weights of a folder into a model, bit for bit.

    Raises:
        CheckpointError: they are missing, damaged, or those of another architecture.
    """
    restore_parameters(model, load_tensors(folder / WEIGHTS).tensors, str(folder / WEIGHTS))
