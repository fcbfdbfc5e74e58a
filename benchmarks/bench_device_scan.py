"""Exact search of 1,000,000 vectors by torch on a GPU, beside numpy on the CPU and a product of 16-bit rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.harness import Bench, Row, main, measure_together, shape
from farfield.apps.retrieval.exact import DeviceScan, Vectors, scan

D, K = 768, 10
CENTRES = 4096
# Rows that a search of 16-bit rows proposes, to be scored in fp32.
PROPOSED = 100


def clusters(n: int, device: torch.device) -> torch.Tensor:
    """(n, 768) of unit length, around centres that overlap."""
    made = torch.Generator(device).manual_seed(0)
    centres = torch.randn(CENTRES, D, generator=made, device=device)
    rows = torch.empty(n, D, device=device)
    for begin in range(0, n, 2**16):
        part = rows[begin : begin + 2**16]
        at = torch.randint(CENTRES, (len(part),), generator=made, device=device)
        part.copy_(torch.randn(part.shape, generator=made, device=device).mul_(0.7).add_(centres[at]))
        torch.nn.functional.normalize(part, dim=1, out=part)
    return rows


def expected(rows: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Best scores (m, k) in float64."""
    parts = [
        (queries.double() @ rows[b : b + 2**17].double().T).topk(K, dim=1).values for b in range(0, len(rows), 2**17)
    ]
    return torch.cat(parts, dim=1).topk(K, dim=1).values.cpu()


def halves(rows: torch.Tensor) -> Callable[[Vectors], torch.Tensor]:
    """Search of rows in fp16, then fp32 for the best of them."""
    half = rows.half()

    def search(queries: Vectors) -> torch.Tensor:
        asked = torch.from_numpy(queries).to(rows.device)
        at = (asked.half() @ half.T).topk(PROPOSED, dim=1).indices
        return torch.einsum("md,mpd->mp", asked, rows[at]).topk(K, dim=1).values.cpu()

    return search


def cases(bench: Bench) -> Iterator[Row]:
    """One query and 32 at once; numpy in, numpy out, with the way to the device and back."""
    n = 20_000 if bench.quick else 1_000_000
    rows = clusters(n, bench.device)
    vectors = rows.cpu().numpy()
    queries = torch.nn.functional.normalize(rows[:: n // 32][:32] + rows[7 :: n // 32][:32], dim=1)
    on_device = DeviceScan(vectors, str(bench.device))
    search = halves(rows)
    for m in (1, 32):
        some = np.ascontiguousarray(queries[:m].cpu().numpy())
        ways: dict[str, Callable[[], torch.Tensor]] = {
            "farfield-device": lambda some=some: torch.from_numpy(on_device(some, K)[0]),  # type: ignore[misc]
            "farfield-numpy": lambda some=some: torch.from_numpy(scan(vectors, some, K)[0]),  # type: ignore[misc]
            "torch-fp16-rescored": lambda some=some: search(some),  # type: ignore[misc]
        }
        times = measure_together(ways, expected=expected(rows, queries[:m]), tolerance=1e-5, seconds=bench.seconds)
        for provider, took in times.items():
            width = 2 if "fp16" in provider else 4
            moved = width * n * D if provider != "farfield-numpy" else None
            where = shape(n=n, d=D, m=m, k=K)
            dtype = "fp16" if width == 2 else "fp32"
            yield bench.row("device_scan", provider, "", where, dtype, times=took, moved_bytes=moved)


if __name__ == "__main__":
    main("device_scan", cases)
