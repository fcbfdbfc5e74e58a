"""Golden vectors: what the official code of each system computes, on random weights and inputs.

`golden(system, name)` reads one file. They lie in FARFIELD_GOLDEN, or in ../shared/golden beside the repository, or a
subset of them in tests/golden/; tests whose file is not there are skipped, and the terminal summary counts the files.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
SUBSET = ROOT / "tests" / "golden"
# All names, also of files that this machine may lack: what is not run has to be countable.
NAMES: dict[str, list[str]] = json.loads((SUBSET / "index.json").read_text())


def folder() -> Path:
    """Where the golden vectors are read from."""
    given = os.environ.get("FARFIELD_GOLDEN")
    if given:
        if not Path(given).is_dir():
            raise FileNotFoundError(f"FARFIELD_GOLDEN={given} is no folder; unset it, or name the vectors' folder")
        return Path(given)
    beside = ROOT.parent / "shared" / "golden"
    return beside if beside.is_dir() else SUBSET


def names(system: str, prefix: str = "") -> list[str]:
    """All names of a system, those absent here included (their tests are skipped)."""
    return [n for n in NAMES[system] if n.startswith(prefix)]


def find(system: str, name: str) -> Path | None:
    """The JSON of one golden file, None where it is absent."""
    path = folder() / system / f"{name}.json"
    return path if path.is_file() else None


@cache
def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (none for a file of JSON alone) and facts of one golden file."""
    tensors = path.with_suffix(".safetensors")
    return (load_file(tensors) if tensors.is_file() else {}), json.loads(path.read_text())


def golden(system: str, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of one golden file, shared between tests: do not write into them."""
    path = find(system, name)
    if path is None:
        pytest.skip(f"golden vector {system}/{name} is not in {folder()}; set FARFIELD_GOLDEN to the folder of all")
    return read(path)


def summary() -> str:
    """How many golden files are there, and how many are not run for want of them."""
    all_ = [(s, n) for s in NAMES for n in NAMES[s]]
    absent = [f"{s}/{n}" for s, n in all_ if find(s, n) is None]
    text = f"golden vectors: {len(all_) - len(absent)} of {len(all_)} files found, {len(absent)} not run"
    return text + (f" ({', '.join(absent)})" if absent else "")
