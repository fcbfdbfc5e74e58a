"""Shards: documents on their way through many workers, each with its vectors beside it, in a folder that all reach.

`NAME.jsonl` holds documents, a line a batch that is encoded at once; `NAME.safetensors` their vectors, once a worker
has made them. A name is the digest of encoder, policy and documents: what is there is never made twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import Encoding
from farfield.apps.training.atomic import atomic_file, atomic_write
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.retrieval.encoder import Encoder, Policy

# Batches of a shard: what a worker that dies has to do again.
BATCHES = 8
TEXTS, VECTORS = ".jsonl", ".safetensors"
FIELDS = ("id", "text", "title", "metadata", "source")


def plan(folder: Path, batches: Iterable[Sequence[Document]], encoder: str, policy: str) -> list[str]:
    """Write the documents of all shards; those that are there already are left.

    Args:
        folder: Where; it is made.
        batches: Documents that are encoded together, in the order in which they go into the index.
        encoder: Digest of its fingerprint.
        policy: What becomes of long texts.
    Returns: Names of the shards in that order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, rest = [], iter(batches)
    while group := list(islice(rest, BATCHES)):
        documents = [document for batch in group for document in batch]
        name = _name(encoder, policy, documents)
        if not (folder / f"{name}{TEXTS}").exists():
            lines = ([{field: _plain(one, field) for field in FIELDS} for one in batch] for batch in group)
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            atomic_write(folder / f"{name}{TEXTS}", text)
        names.append(name)
    return names


def encode(folder: Path, name: str, encoder: Encoder, policy: Policy) -> None:
    """Make the vectors of a shard, unless they are there and sound.

    Raises: TruncatedText: a text is too long under policy=error.
    """
    if vectors(folder, name) is not None:
        return
    from safetensors.numpy import save

    made = [one for batch in documents(folder, name) for one in encoder.encode([d.text for d in batch], policy=policy)]
    tensors: dict[str, NDArray[np.generic]] = {
        "whole": np.stack([one.whole for one in made]),
        "windows": np.concatenate([one.windows for one in made]),
        "offsets": np.concatenate([one.offsets for one in made]),
        "counts": np.array([len(one.windows) for one in made], np.int64),
        "n_tokens": np.array([one.n_tokens for one in made], np.int64),
        "truncated": np.array([one.truncated for one in made], np.uint8),
    }
    with atomic_file(folder / f"{name}{VECTORS}") as temporary:
        temporary.write_bytes(save(tensors, {"sha256": _digest(tensors)}))


def documents(folder: Path, name: str) -> Iterator[list[Document]]:
    """The documents of a shard, batch by batch.

    Raises: UserError: its file cannot be read.
    """
    path = folder / f"{name}{TEXTS}"
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield [Document(**one) for one in json.loads(line)]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}; remove it, and the same command makes it again") from error


def vectors(folder: Path, name: str) -> list[Encoding] | None:
    """The vectors of a shard; None where they are not there or not what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / f"{name}{VECTORS}", "numpy") as file:
            t = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if (file.metadata() or {}).get("sha256") != _digest(t):
                return None
    except (FileNotFoundError, SafetensorError):
        return None
    ends = np.cumsum(t["counts"])
    rows = zip(t["whole"], ends - t["counts"], ends, t["n_tokens"], t["truncated"], strict=True)
    return [
        Encoding(whole, t["windows"][a:b], t["offsets"][a:b], int(n_tokens), bool(truncated))
        for whole, a, b, n_tokens, truncated in rows
    ]


def remove(folder: Path, names: Sequence[str]) -> None:
    """Remove the files of shards, and the folder where nothing else is in it."""
    for name in names:
        for ending in (TEXTS, VECTORS):
            (folder / f"{name}{ending}").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _name(encoder: str, policy: str, documents: Sequence[Document]) -> str:
    digest = hashlib.sha256(f"{encoder} {policy}".encode())
    for document in documents:
        digest.update(document.digest)
    return digest.hexdigest()[:32]


def _plain(document: Document, field: str) -> object:
    value = getattr(document, field)
    return dict(value) if isinstance(value, Mapping) else value


def _digest(tensors: Mapping[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
