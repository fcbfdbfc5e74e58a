"""How long a rollout takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch


def median_seconds(once: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of a call; on a GPU it is recorded once and replayed, so that no launches are counted."""
    if device.type != "cuda":
        once()
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            once()
            taken.append(time.perf_counter() - began)
        return float(np.median(taken))
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    taken = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3)
    return float(np.median(taken))
