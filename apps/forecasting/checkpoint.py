"""A network as two files, model.safetensors and config.json; nothing in them is ever executed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from farfield.apps.forecasting.config import SpaceTimeConfig
from farfield.apps.forecasting.spacetime import SpaceTime
from farfield.apps.training.atomic import atomic_write
from farfield.apps.training.errors import UserError

FORMAT = "farfield.spacetime/1"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
AGAIN = "write the checkpoint anew"


def save(net: SpaceTime, folder: str | Path, facts: dict[str, Any] | None = None) -> Path:
    """Writes a network into a folder, each file in one step.

    Args:
        facts: What else belongs to it (scaler, columns, protocol), plain values.
    Returns: Path of model.safetensors.
    """
    folder = Path(folder)
    text = json.dumps({"format": FORMAT, "model": dataclasses.asdict(net.config), "facts": facts or {}}, indent=1)
    tensors = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    # The weights hold the config too: the two files cannot come apart unseen.
    atomic_write(folder / WEIGHTS, to_safetensors(tensors, {"format": "pt", "farfield": text}))
    atomic_write(folder / CONFIG, text + "\n")
    return folder / WEIGHTS


def load(folder: str | Path) -> tuple[SpaceTime, dict[str, Any]]:
    """A network that `save` wrote, in evaluation mode on the CPU, and its facts.

    Raises: UserError: not there, damaged, of another format, or weights that do not fit the config.
    """
    folder = Path(folder)
    path, config_path = folder / WEIGHTS, folder / CONFIG
    try:
        written = json.loads(config_path.read_text(encoding="utf-8"))
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; give a folder that holds {WEIGHTS} and {CONFIG}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not readable as a checkpoint ({error}); {AGAIN}") from error
    if not isinstance(written, dict) or written.get("format") != FORMAT or not isinstance(written.get("model"), dict):
        came = written.get("format") if isinstance(written, dict) else type(written).__name__
        raise UserError(f"{config_path}: format {came!r} came, {FORMAT!r} is accepted; {AGAIN}, or update farfield")
    net = SpaceTime(SpaceTimeConfig.of(written["model"]))
    try:
        tensors = from_safetensors(data)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or cut off ({error}); {AGAIN}") from error
    wanted = net.state_dict()
    if odd := sorted(set(tensors) ^ set(wanted)):
        raise UserError(f"{path}: key {odd[0]} is missing or unknown beside {config_path}; {AGAIN}")
    if wrong := [name for name, value in wanted.items() if tensors[name].shape != value.shape]:
        came, needed = tuple(tensors[wrong[0]].shape), tuple(wanted[wrong[0]].shape)
        raise UserError(f"{path}: {wrong[0]} has shape {came}, its config says {needed}; {AGAIN}")
    net.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
    return net.eval(), dict(written.get("facts", {}))
