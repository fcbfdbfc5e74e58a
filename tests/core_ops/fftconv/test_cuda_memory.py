"""What fftconv holds on a GPU, by torch's own count; skipped without a GPU."""

import pytest
import torch
from torch import Tensor

from farfield.core_ops import fftconv

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytestmark = [gpu, pytest.mark.gpu]

SPECTRUM = 256 << 20
SHAPES = [(64, 256, 1024), (1, 768, 4096), (16, 256, 8192), (8, 256, 16384), (8, 128, 32768), (2, 64, 131072)]
SHAPES += [(1, 32, 1 << 20), (1, 768, 1024), (2, 768, 1024), (2, 768, 4096), (8, 64, 2048)]


def most_bytes(run: object) -> tuple[int, list[Tensor]]:
    """The peak above what was held before a second call, and its results."""
    run()  # type: ignore[operator]
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = run()  # type: ignore[operator]
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, results


@pytest.mark.parametrize(("batch", "channels", "length"), SHAPES)
def test_forward_and_backward_stay_under_their_bounds(batch: int, channels: int, length: int) -> None:
    u, p, q, dy = (torch.randn(batch, channels, length, device="cuda").bfloat16() for _ in range(4))
    k = torch.randn(channels, length, device="cuda")
    with torch.no_grad():
        held, _ = most_bytes(lambda: fftconv(u, k, pregate=p, postgate=q, impl="cuda"))
    spectrum = min(SPECTRUM, channels * length * 8)
    bound = 1.1 * u.nbytes + spectrum if length <= 1 << 15 else 3 * u.nbytes
    print(f"forward {batch} {channels} {length}: {held / u.nbytes:.2f} outputs, bound {bound / u.nbytes:.2f}")
    leaves = [x.requires_grad_() for x in (u, k, p, q)]
    y = fftconv(u, k, pregate=p, postgate=q, impl="cuda")
    back, gradients = most_bytes(lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True))
    given = sum(x.nbytes for x in (*leaves, dy))
    made = sum(x.nbytes for x in gradients)
    # Inputs are held before: they do not count into the peak above it.
    most = made + 0.3 * (given + made)
    print(f"backward {batch} {channels} {length}: {back / made:.2f} gradients, bound {most / made:.2f}")
    assert held <= bound
    assert back <= most
