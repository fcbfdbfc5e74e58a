"""A deterministic encoder of words, quick and without weights: what the tests of the store stand on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval.encoder import Encoding, Policy, Vectors


class FakeEncoder:
    """Each word has a random direction; a text is the normalised sum of its words, a window eight of them.

    Args:
        d: Width of a vector.
        salt: Another one is another encoder.
    """

    def __init__(self, d: int = 16, salt: str = "one") -> None:
        self.d = d
        self.max_tokens = 8
        self.fingerprint: dict[str, str | int | bool] = {"kind": "fake", "d": d, "salt": salt}
        self.calls = 0

    def encode(
        self, texts: Sequence[str], *, policy: Policy = "chunk", progress: Callable[[int, int], None] | None = None
    ) -> list[Encoding]:
        self.calls += 1
        return [self._one(text, policy) for text in texts]

    def encode_queries(self, texts: Sequence[str], *, policy: Policy = "warn") -> Vectors:
        return np.stack([self._vector(text) for text in texts]) if texts else np.empty((0, self.d), np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def _one(self, text: str, policy: str) -> Encoding:
        words = [m.span() for m in re.finditer(r"\S+", text)]
        groups = [words[i : i + self.max_tokens] for i in range(0, len(words), self.max_tokens)]
        spans = [(g[0][0], g[-1][1]) for g in groups] or [(0, 0)]
        truncated = policy == "truncate" and len(spans) > 1
        spans = spans[:1] if truncated else spans
        windows = np.stack([self._vector(text[a:b]) for a, b in spans])
        whole = self._vector(text[spans[0][0] : spans[-1][1]])
        return Encoding(whole, windows, np.array(spans, np.int64), len(words), truncated)

    def _vector(self, text: str) -> Vectors:
        total = np.zeros(self.d)
        for word in text.lower().split() or ["nothing"]:
            total += _direction(f"{self.fingerprint['salt']} {word}", self.d)
        return (total / np.linalg.norm(total)).astype(np.float32)


@lru_cache(maxsize=65536)
def _direction(word: str, d: int) -> NDArray[np.float64]:
    seed = hashlib.sha256(word.encode(errors="replace")).digest()[:8]
    return np.random.default_rng(int.from_bytes(seed, "little")).standard_normal(d)
