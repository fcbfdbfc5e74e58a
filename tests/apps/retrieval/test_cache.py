"""What was encoded once is not encoded again, and another encoder's vectors are never taken for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farfield.apps.retrieval import cache
from farfield.apps.retrieval.cache import VectorCache, cache_folder, encode_cached, encode_queries_cached, text_digest
from farfield.apps.retrieval.encoder import Encoding, Fingerprint, Policy, Progress, Vectors
from farfield.apps.training.errors import UserError


@dataclass
class Counting:
    """An encoder whose vectors are counts of letters; it remembers what it was asked."""

    fingerprint: Fingerprint = field(default_factory=lambda: {"weights": "a"})
    d: int = 26
    max_tokens: int = 4
    asked: list[str] = field(default_factory=list)

    def encode(
        self, texts: Sequence[str], *, policy: Policy = "chunk", progress: Progress | None = None
    ) -> list[Encoding]:
        self.asked += texts
        made = []
        for text in texts:
            parts = [text[i : i + 4] for i in range(0, max(len(text), 1), 4)]
            windows = self._vectors(parts)
            offsets = np.array([(4 * i, 4 * i + len(p)) for i, p in enumerate(parts)])
            made.append(Encoding(windows.mean(0), windows, offsets, len(text), policy != "chunk"))
        if progress is not None:
            progress(sum(map(len, texts)), sum(map(len, texts)))
        return made

    def encode_queries(self, texts: Sequence[str], *, policy: Policy = "warn") -> Vectors:
        self.asked += texts
        return self._vectors(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(t) for t in texts]

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        return np.array([[t.count(chr(97 + i)) for i in range(26)] for t in texts], dtype=np.float32).reshape(-1, 26)


TEXTS = ["abcdefghij", "zebra", "", "zebra"]


def test_texts_are_encoded_once_and_come_back_as_they_were(tmp_path: Path) -> None:
    encoder = Counting()
    seen: list[tuple[int, int]] = []
    encode_cached(encoder, TEXTS, tmp_path, policy="chunk", progress=lambda *x: seen.append(x))
    assert encoder.asked == ["abcdefghij", "zebra", ""]
    assert (seen[0], seen[-1]) == ((0, 15), (15, 15))
    again = encode_cached(Counting(), [*TEXTS, "new"], tmp_path, policy="chunk")
    for encoding, fresh in zip(again, Counting().encode([*TEXTS, "new"]), strict=True):
        for name in ("whole", "windows", "offsets", "n_tokens", "truncated"):
            assert np.array_equal(getattr(encoding, name), getattr(fresh, name)), name
    other = Counting()
    encode_cached(other, [*TEXTS, "newer"], tmp_path, policy="chunk")
    assert other.asked == ["newer"]


def test_an_interruption_costs_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CHARACTERS_AT_ONCE", 10)
    encoder = Counting()
    encode = encoder.encode

    def stopped(texts: Sequence[str], **how: Any) -> list[Encoding]:
        if "the end" in texts:
            raise KeyboardInterrupt
        return encode(texts, **how)

    monkeypatch.setattr(encoder, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        encode_cached(encoder, ["eleven letters", "more", "and more", "the end"], tmp_path, policy="chunk")
    other = Counting()
    encode_cached(other, ["eleven letters", "more", "and more", "the end"], tmp_path, policy="chunk")
    assert other.asked == ["the end"]


def test_another_policy_or_fingerprint_shares_nothing(tmp_path: Path) -> None:
    encode_cached(Counting(), TEXTS, tmp_path, policy="chunk")
    for encoder, policy in ((Counting(), "truncate"), (Counting({"weights": "b"}), "chunk")):
        encode_cached(encoder, TEXTS, tmp_path, policy=policy)  # type: ignore[arg-type]
        assert encoder.asked == ["abcdefghij", "zebra", ""]


def test_queries_are_kept_apart_from_documents(tmp_path: Path) -> None:
    encode_cached(Counting(), TEXTS, tmp_path, policy="chunk")
    encoder = Counting()
    vectors = encode_queries_cached(encoder, TEXTS, tmp_path)
    assert np.array_equal(vectors, Counting().encode_queries(TEXTS))
    assert encoder.asked == ["abcdefghij", "zebra", ""]
    assert np.array_equal(encode_queries_cached(Counting(d=3), TEXTS, tmp_path), vectors)
    assert encode_queries_cached(Counting(), [], tmp_path).shape == (0, 26)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    encode_cached(Counting(), TEXTS, tmp_path, policy="chunk")
    (file,) = tmp_path.glob("*/*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError, match=f"{file.name}: this file of the cache is damaged .* delete it"):
        VectorCache(tmp_path, Counting(), "chunk")


def test_what_a_killed_run_left_is_no_entry(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, Counting(), "chunk")
    cache.put([], [])
    assert not cache.folder.exists()
    cache.folder.mkdir(parents=True)
    (cache.folder / ".tmp-x.safetensors-1").write_bytes(b"half")
    assert text_digest("zebra") not in VectorCache(tmp_path, Counting(), "chunk")


def test_the_folder_is_the_one_given_or_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARFIELD_CACHE", str(tmp_path))
    assert cache_folder(None) == tmp_path / "vectors"
    assert cache_folder("here") == Path("here")
    monkeypatch.delenv("FARFIELD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "farfield" / "vectors"
