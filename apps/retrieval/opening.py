"""How the verbs open an index: with the encoder that it keeps the settings of, or one that is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.encoder import load_encoder

if TYPE_CHECKING:
    from farfield.apps.retrieval.encoder import Encoder

DEFAULT = "minilm"


def encoder_settings(encoder: str | None, window: int | None, overlap: int) -> dict[str, Any]:
    """What an index keeps of its encoder: enough to load it again from any folder."""
    path = encoder or DEFAULT
    return {"path": path if path == DEFAULT else str(Path(path).absolute()), "window": window, "overlap": overlap}


def stored_settings(collection: Collection) -> dict[str, Any]:
    """What the index keeps of the encoder that serves."""
    query = "SELECT settings FROM encoders WHERE encoder = ?"
    row = collection.store.db.execute(query, [collection.view().encoder]).fetchone()
    settings: dict[str, Any] = json.loads(row[0])
    return settings


def open_index(
    index: str, encoder: str | None, window: int | None, overlap: int, device: str, precision: str
) -> Collection:
    """An index that is there; its own encoder is loaded when it is first needed, a named one is compared with it.

    Raises: UserError: there is no index, or it was made by another encoder than the one named.
    """

    def load(settings: dict[str, Any]) -> Encoder:
        return load_encoder(**settings, device=device, precision=precision)

    named = None if encoder is None else load(encoder_settings(encoder, window, overlap))
    return Collection.open(index, named, load=load, device=scan_device(device))


def scan_device(device: str) -> str:
    """Where exact scans run: a GPU that is named, or the CPU."""
    return device if device.startswith("cuda") else "cpu"
