"""Checkpoints as safetensors and JSON: model.safetensors, state.safetensors, state.json, manifest.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from farfield.apps.training.atomic import atomic_folder
from farfield.apps.training.manifest import About, verify, write_manifest
from farfield.apps.training.tree import decode, encode

MODEL, STATE, TREE = "model.safetensors", "state.safetensors", "state.json"
_SHARED = "farfield.shared"
ABOUT = "farfield_about"


def write_checkpoint(folder: str | Path, checkpoint: dict[str, Any]) -> None:
    """Publish a checkpoint folder in one step.

    Args:
        folder: Name that appears when every file is on disk; one that is there already is replaced.
        checkpoint: Lightning's dictionary. Tensors of `state_dict` go to model.safetensors, all others to
            state.safetensors, the rest to state.json; `farfield_about` (a dict) goes to the manifest.

    Raises:
        TypeError: A value that cannot be written; the message names its path. Nothing is left behind.
    """
    rest = dict(checkpoint)
    about = About(**rest.pop(ABOUT, {"step": int(checkpoint.get("global_step", 0))}))
    weights: dict[str, torch.Tensor] = {}
    extra: dict[str, Any] = {}
    for name, value in rest.pop("state_dict", {}).items():
        (weights if isinstance(value, torch.Tensor) else extra)[name] = value
    tree, tensors = encode(rest, "checkpoint")
    extra_tree, extra_tensors = encode(extra, "checkpoint['state_dict']")
    with atomic_folder(folder) as temporary:
        write_weights(temporary / MODEL, weights)
        named = {f"rest.{k}": v for k, v in tensors.items()} | {f"extra.{k}": v for k, v in extra_tensors.items()}
        save_file(named, temporary / STATE)
        text = json.dumps({"rest": tree, "state_dict": extra_tree}, allow_nan=False)
        (temporary / TREE).write_text(text, encoding="utf-8")
        write_manifest(temporary, about)


def read_checkpoint(folder: str | Path) -> dict[str, Any]:
    """The dictionary that write_checkpoint was given, tensors on the CPU.

    Args:
        folder: A checkpoint folder.

    Returns:
        Lightning's dictionary.

    Raises:
        CorruptCheckpoint: The folder is not what was written; the message names it and the file.
    """
    folder = Path(folder)
    verify(folder)
    nodes = json.loads((folder / TREE).read_text(encoding="utf-8"))
    tensors: dict[str, dict[str, torch.Tensor]] = {"rest": {}, "extra": {}}
    with safe_open(folder / STATE, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
            part, key = name.split(".", 1)
            tensors[part][key] = file.get_tensor(name)
    checkpoint: dict[str, Any] = decode(nodes["rest"], tensors["rest"])
    extra = decode(nodes["state_dict"], tensors["extra"])
    return checkpoint | {"state_dict": read_weights(folder / MODEL) | extra}


def write_weights(path: str | Path, weights: dict[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors; tied ones once, with the other names in the header.

    Args:
        path: File to write (not atomic: the caller publishes it).
        weights: Names and dense tensors, which may share memory.

    Raises:
        TypeError: A tensor that is not dense; the message names it.
    """
    first: dict[tuple[Any, ...], str] = {}
    shared: dict[str, str] = {}
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.dtype is torch.complex128:
            raise TypeError(
                f"checkpoint['state_dict'][{name!r}] is a {tensor.layout} {tensor.dtype} tensor on {tensor.device};"
                " model weights can be dense and anything but complex128"
            )
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and key in first:
            shared[name] = first[key]
            continue
        first[key] = name
        kept[name] = tensor.detach().resolve_conj().resolve_neg()
    save_file(_own_memory(kept), path, metadata={"format": "pt", _SHARED: json.dumps(shared)})


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Named tensors of a model.safetensors, tied names included.

    Args:
        path: The file, or a checkpoint folder that holds it.

    Returns:
        Names and tensors on the CPU; tied names are one tensor.
    """
    path = Path(path)
    with safe_open(path / MODEL if path.is_dir() else path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        shared = json.loads((file.metadata() or {}).get(_SHARED, "{}"))
    return weights | {name: weights[other] for name, other in shared.items()}


def _own_memory(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # safetensors refuses views of one storage (slices of a fused weight): those are copied.
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        own[name] = tensor if whole and storage not in seen else tensor.clone(memory_format=torch.contiguous_format)
        seen.add(storage)
    return own
