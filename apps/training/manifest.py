"""What a checkpoint folder holds, with a checksum of each file; readable without torch."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farfield.apps.training.atomic import atomic_write

FORMAT = "farfield-checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
_FOLDER = re.compile(r"step-(\d{8,})")


class CorruptCheckpoint(ValueError):
    """A checkpoint folder whose files are not what its manifest says; the message names the folder and the file."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a checkpoint says of itself.

    Args:
        step: Optimiser steps done.
        monitor: Name of the monitored metric, if any.
        mode: min or max: which values of it are good.
        value: Its value at the validation at this step; None when none ran.
        stopped: Why the run needs no more training ("early stopping"); None while it goes on.
    """

    step: int
    monitor: str | None = None
    mode: str = "min"
    value: float | None = None
    stopped: str | None = None


def folder_name(step: int) -> str:
    """step-00000100 for 100: sorts by step."""
    return f"step-{step:08d}"


def checkpoint_folders(parent: Path) -> list[Path]:
    """Published checkpoints in a folder, oldest first, whether they verify or not."""
    found = [(int(match[1]), entry) for entry in _entries(parent) if (match := _FOLDER.fullmatch(entry.name))]
    return [entry for _, entry in sorted(found)]


def write_manifest(folder: Path, about: About) -> None:
    """Write manifest.json, last of a folder's files: name, bytes and sha256 of every other one."""
    files = {
        entry.name: {"bytes": entry.stat().st_size, "sha256": _sha256(entry)}
        for entry in sorted(folder.iterdir())
        if entry.name != MANIFEST
    }
    body = {"format": FORMAT, "version": VERSION, "about": dict(vars(about)), "files": files}
    atomic_write(folder / MANIFEST, json.dumps(body | {"sha256": _digest(body)}, indent=1, allow_nan=False) + "\n")


def read_about(folder: Path) -> About:
    """What the manifest says, without reading the other files.

    Raises:
        CorruptCheckpoint: The manifest is missing or damaged.
        ValueError: It was written by a newer version.
    """
    about = _read(folder)["about"]
    return About(**{key: about[key] for key in About.__dataclass_fields__ if key in about})


def verify(folder: Path) -> About:
    """Read every file of a checkpoint and compare it with the manifest.

    Args:
        folder: A checkpoint folder.

    Returns:
        What the checkpoint says of itself.

    Raises:
        CorruptCheckpoint: A file is missing, too much, cut short or altered.
        ValueError: It was written by a newer version.

    Complexity: one read of all bytes.
    """
    body = _read(folder)
    for name, said in body["files"].items():
        path = folder / name
        if not path.is_file():
            raise CorruptCheckpoint(f"checkpoint {folder} is incomplete: {name} is missing")
        if path.stat().st_size != said["bytes"]:
            raise CorruptCheckpoint(
                f"checkpoint {folder} is damaged: {name} has {path.stat().st_size} bytes, {said['bytes']} were written"
            )
        if _sha256(path) != said["sha256"]:
            raise CorruptCheckpoint(f"checkpoint {folder} is damaged: the content of {name} has changed")
    return read_about(folder)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        said = body.pop("sha256")
    except FileNotFoundError:
        raise CorruptCheckpoint(f"checkpoint {folder} is incomplete: {MANIFEST} is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CorruptCheckpoint(f"checkpoint {folder} is damaged: {MANIFEST} cannot be read") from None
    if said != _digest(body) or body.get("format") != FORMAT:
        raise CorruptCheckpoint(f"checkpoint {folder} is damaged: the content of {MANIFEST} has changed")
    if body["version"] > VERSION:
        raise ValueError(
            f"checkpoint {folder} has format version {body['version']}, this farfield reads up to {VERSION}: upgrade it"
        )
    return dict(body)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _entries(parent: Path) -> list[Path]:
    return [entry for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
