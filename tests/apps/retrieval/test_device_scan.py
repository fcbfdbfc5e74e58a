"""The scan by torch finds what the scan by numpy finds: on the CPU's torch always, on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.apps.retrieval.exact import DeviceScan, Live, Rows, Vectors, scan

torch = pytest.importorskip("torch")


def rows(n: int, d: int, seed: int) -> Vectors:
    made = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def agree(vectors: Vectors, queries: Vectors, found: tuple[Vectors, Rows], k: int, live: Live | None) -> None:
    """Same scores to float32's rounding; another row only where two scores are that near."""
    scores, at = scan(vectors, queries, k, live=live)
    np.testing.assert_allclose(found[0], scores, atol=1e-6)
    for q, (ours, wanted) in enumerate(zip(found[1], at, strict=True)):
        assert len(set(ours[ours >= 0])) == (wanted >= 0).sum()
        assert live is None or live[ours[ours >= 0]].all()
        own = vectors[ours[ours >= 0]].astype(np.float64) @ queries[q].astype(np.float64)
        np.testing.assert_allclose(own, scores[q][wanted >= 0], atol=2e-6)


DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("n", "d", "m", "k"), [(1, 1, 1, 1), (7, 3, 2, 10), (20_011, 33, 5, 10), (16_384, 64, 1, 100)])
def test_the_scan_of_a_device_equals_the_scan_of_the_cpu(device: str, n: int, d: int, m: int, k: int) -> None:
    vectors, queries = rows(n, d, 1), rows(m, d, 2)
    agree(vectors, queries, DeviceScan(vectors, device)(queries, k), k, None)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_that_may_not_be_found_are_not(device: str) -> None:
    vectors, queries = rows(5_003, 48, 3), rows(4, 48, 4)
    scanned = DeviceScan(vectors, device)
    for share in (0.5, 0.01, 0.0):
        live = np.random.default_rng(5).random(len(vectors)) < share
        found = scanned(queries, 60, live)
        assert found[1].shape == (4, 60)
        agree(vectors, queries, found, 60, live)
