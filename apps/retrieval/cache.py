"""Encodings on disk, by text and encoder: what was encoded once is not encoded again, whatever stopped the run."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from farfield.apps.retrieval.encoder import (
    Encoder,
    Encoding,
    Policy,
    Progress,
    Vectors,
    check_policy,
    fingerprint_digest,
)
from farfield.apps.training.atomic import atomic_file
from farfield.apps.training.errors import UserError

# Texts and characters encoded between two writes: what an interruption costs.
TEXTS_AT_ONCE, CHARACTERS_AT_ONCE = 256, 500_000


def cache_folder(path: str | None) -> Path:
    """Where vectors are kept: the path given, else FARFIELD_CACHE, XDG_CACHE_HOME or ~/.cache, /farfield/vectors."""
    if path is not None:
        return Path(path)
    root = os.environ.get("FARFIELD_CACHE")
    if root:
        return Path(root) / "vectors"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "farfield" / "vectors"


class VectorCache:
    """Encodings of one encoder under one policy. Files are written whole; two processes may write at once.

    Args:
        folder: As of `cache_folder`.
        encoder: Whose vectors; another fingerprint or precision has a folder of its own.
        policy: As of `Encoder.encode`, or "query".
    Raises: UserError: a file of the cache is damaged.
    """

    def __init__(self, folder: Path, encoder: Encoder, policy: str) -> None:
        key = f"{fingerprint_digest(encoder.fingerprint)}{getattr(encoder, 'precision', '')}"
        self.folder = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{policy}"
        self._where: dict[str, tuple[Path, int]] = {}
        self._loaded: tuple[Path, list[Encoding]] | None = None
        for file in sorted(self.folder.glob("*.safetensors")):
            for i, digest in enumerate(_digests_in(file)):
                self._where[digest] = (file, i)

    def __contains__(self, digest: str) -> bool:
        """Whether the text of this SHA-256 was encoded."""
        return digest in self._where

    def get(self, digest: str) -> Encoding:
        """The encoding of the text of this SHA-256."""
        file, i = self._where[digest]
        if self._loaded is None or self._loaded[0] != file:
            self._loaded = (file, _read(file))
        return self._loaded[1][i]

    def put(self, digests: Sequence[str], encodings: Sequence[Encoding]) -> None:
        """Keep encodings of texts, in one new file."""
        from safetensors.numpy import save_file

        if not digests:
            return
        file = self.folder / f"{uuid.uuid4().hex}.safetensors"
        tensors = {
            "whole": np.stack([e.whole for e in encodings]),
            "windows": np.concatenate([e.windows for e in encodings]),
            "offsets": np.concatenate([e.offsets for e in encodings]),
            "counts": np.array([len(e.windows) for e in encodings]),
            "n_tokens": np.array([e.n_tokens for e in encodings]),
            "truncated": np.array([e.truncated for e in encodings], dtype=np.uint8),
        }
        with atomic_file(file) as temporary:
            save_file(tensors, temporary, metadata={"sha256": json.dumps(list(digests))})
        self._where.update((digest, (file, i)) for i, digest in enumerate(digests))


def text_digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def encode_cached(
    encoder: Encoder, texts: Sequence[str], folder: Path, *, policy: Policy, progress: Progress | None = None
) -> list[Encoding]:
    """`Encoder.encode` of the texts that the cache does not hold; progress counts tokens of these alone.

    Args:
        encoder, texts, policy: As of `Encoder.encode`.
        folder: As of `cache_folder`.
        progress: Called with tokens done and all tokens to do.
    Returns: Encodings in the order of the texts.
    """
    check_policy(policy)
    cache = VectorCache(folder, encoder, policy)
    digests = [text_digest(text) for text in texts]
    missing = {d: t for d, t in zip(digests, texts, strict=True) if d not in cache}
    todo = list(missing.items())
    if todo and progress is not None:
        total = sum(encoder.count_tokens(list(missing.values())))
        progress(0, total)
    before = 0
    for part in _parts(todo):
        tell = None if progress is None else (lambda done, _, start=before: progress(start + done, total))
        made = encoder.encode([t for _, t in part], policy=policy, progress=tell)
        cache.put([d for d, _ in part], made)
        before += sum(e.n_tokens for e in made)
    return [cache.get(d) for d in digests]


def _parts(todo: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    part: list[tuple[str, str]] = []
    for one in todo:
        part.append(one)
        if len(part) == TEXTS_AT_ONCE or sum(len(text) for _, text in part) > CHARACTERS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def encode_queries_cached(encoder: Encoder, texts: Sequence[str], folder: Path) -> Vectors:
    """`Encoder.encode_queries` (n, d) of the texts that the cache does not hold."""
    cache = VectorCache(folder, encoder, "query")
    digests = [text_digest(text) for text in texts]
    missing = {d: t for d, t in zip(digests, texts, strict=True) if d not in cache}
    vectors = encoder.encode_queries(list(missing.values()))
    nowhere = np.zeros((1, 2), dtype=np.int64)
    cache.put(list(missing), [Encoding(v, v[None], nowhere, 0, False) for v in vectors])
    return np.stack([cache.get(d).whole for d in digests]) if texts else np.empty((0, encoder.d), dtype=np.float32)


def _digests_in(file: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            return list(json.loads(tensors.metadata()["sha256"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file}: this file of the cache is damaged ({error}); delete it, its texts are encoded again"
        ) from error


def _read(file: Path) -> list[Encoding]:
    from safetensors.numpy import load_file

    t = load_file(file)
    ends = np.cumsum(t["counts"])
    return [
        Encoding(
            t["whole"][i],
            t["windows"][end - count : end],
            t["offsets"][end - count : end],
            int(t["n_tokens"][i]),
            bool(t["truncated"][i]),
        )
        for i, (count, end) in enumerate(zip(t["counts"], ends, strict=True))
    ]
