"""Reads tensors out of files from elsewhere without running anything that the files hold."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from farfield.apps.training.errors import UserError

AGAIN = "get the file again and compare its size and checksum with the source's"


class Weights(NamedTuple):
    """What a file holds: its tensors by name, and everything else that is plain data."""

    tensors: dict[str, Tensor]
    extra: dict[str, Any]


def read_weights(path: Path) -> Weights:
    """The tensors of a safetensors or torch file; which one is seen from its first bytes, not from its name.

    Raises: UserError: the file is neither, is damaged, or names code that is refused.
    """
    try:
        with path.open("rb") as f:
            head = f.read(64)
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); give a readable checkpoint file or folder") from e
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the weights; run `git lfs pull` in its repository")
    if head.startswith(b"PK"):
        return _read_torch(path)
    if len(head) > 8 and head[8:9] == b"{":
        return _read_safetensors(path)
    came = head[:8].hex(" ") or "none: it is empty"
    raise UserError(f"{path}: neither a safetensors nor a torch checkpoint (first bytes {came}); {AGAIN}")


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: not readable as JSON ({e}); {AGAIN}") from e
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a JSON {type(value).__name__}, a JSON object is accepted; {AGAIN}")
    return value


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as f:
            return Weights({name: f.get_tensor(name) for name in f.keys()}, dict(f.metadata() or {}))  # noqa: SIM118
    # The reader's own errors have no common class, and the bytes are not ours: whatever it says, the file is damaged.
    except Exception as e:
        raise UserError(f"{path}: damaged or cut off, not readable as safetensors ({e}); {AGAIN}") from e


class Inert:
    """Stands in for every class and function that a torch file names: keeps what it is given, does nothing."""

    def __init__(self, *_: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


def _read_torch(path: Path) -> Weights:
    """A torch file under weights_only=True, foreign names resolved to `Inert` instead of to what they name.

    torch's own weights-only reader calls nothing but tensor builders and what it is told is safe: here only `Inert`.
    Names in os, sys, posix and nt it refuses altogether.
    """
    # What other libraries declare safe at their import (torch-geometric: its own classes) is not safe here.
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        stubs: list[Any] = [(Inert, name) for name in foreign if name != "collections.defaultdict"]
        # torch fills nothing but plain dicts, so a defaultdict has to become one.
        torch.serialization.add_safe_globals([*stubs, (_empty_dict, "collections.defaultdict")])
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    # Any error class may come out of bytes that are not ours; nothing was run, and the file is of no use.
    except Exception as e:
        why = str(e).strip().splitlines()[0][:300] if str(e).strip() else type(e).__name__
        raise UserError(f"{path}: damaged, cut off, or more than weights ({why}); {AGAIN}") from e
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds a {type(loaded).__name__}, a dict of tensors is accepted; {AGAIN}")
    state = loaded.get("state_dict", loaded)
    if not isinstance(state, dict):
        raise UserError(f"{path}: its state_dict is a {type(state).__name__}, a dict of tensors is accepted; {AGAIN}")
    extra = {} if state is loaded else {k: plain(v) for k, v in loaded.items() if k == "hyper_parameters"}
    extra["lightning"] = state is not loaded
    return Weights({k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}, extra)


def _empty_dict(*_: object) -> dict[object, object]:
    return {}


def plain(value: object, depth: int = 0) -> Any:
    """Numbers, strings, lists and dicts of what a file held, also out of inert OmegaConf nodes; the rest is None."""
    if depth > 32:
        return None
    if isinstance(value, Inert):
        state = value.state if isinstance(value.state, dict) else {}
        return plain(state.get("_content", state.get("_val")), depth + 1)
    if isinstance(value, dict):
        return {k: plain(v, depth + 1) for k, v in value.items() if isinstance(k, str)}
    if isinstance(value, list | tuple):
        return [plain(v, depth + 1) for v in value]
    return value if isinstance(value, bool | int | float | str) else None
