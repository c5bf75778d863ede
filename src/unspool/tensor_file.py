"""Tensor files: written whole or not at all, with a checksum in their own header, never pickled."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unspool.errors import CheckpointError
from unspool.files import flush


class Stored(NamedTuple):
    """Tensors of a file by name, and the values that lay beside them."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any] | None = None) -> None:
    """Writes a tensor file in one piece: after a kill, the old file or the new one is there."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(values or {})
    beside = path.with_name(path.name + ".new")
    try:
        save_file(whole, beside, metadata={"unspool": json.dumps([text, _digest(whole, text)])})
        flush(beside)
        os.replace(beside, path)
        flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written ({error}); what was there before is kept.") from error


def load_tensors(path: Path) -> Stored:
    """Reads a tensor file and checks it.

    Raises:
        CheckpointError: the file is missing, damaged, or not written by `save_tensors`.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; the folder holds no finished checkpoint.")
    try:
        with safe_open(path, framework="pt") as file:
            values, digest = json.loads((file.metadata() or {}).get("unspool", '["", ""]'))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: the file is damaged ({error}).") from error
    if digest != _digest(tensors, values):
        raise CheckpointError(f"{path}: the file is damaged (its checksum does not fit its contents).")
    return Stored(tensors, json.loads(values))


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and buffers by name; tied ones once."""
    seen: set[int] = set()
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def restore_parameters(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copies tensors into a model's parameters and buffers.

    Raises:
        CheckpointError: names or shapes differ.
    """
    own = parameters_of(model)
    for name in sorted(own.keys() ^ tensors.keys()):
        raise CheckpointError(f"{where}: {name} is {'missing' if name in own else 'not part of this model'}.")
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise CheckpointError(f"{where}: {name} must be {list(tensor.shape)}, got {list(tensors[name].shape)}.")
            tensor.copy_(tensors[name])


def _digest(tensors: Mapping[str, Tensor], values: str) -> str:
    digest = hashlib.sha256(values.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
