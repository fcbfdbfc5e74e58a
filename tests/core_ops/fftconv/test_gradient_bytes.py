"""What a backward would hold on an H100 besides inputs and gradients, by its own arithmetic: no GPU."""

import pytest
import torch

from farfield.core_ops.fftconv.cuda import gradient, gradient_plan, plan
from farfield.core_ops.fftconv.cuda.launch import Kernels, Operands, channel_chunks

H100 = plan.Device(232448, 233472, 132)
SCALED = [(1 << m, 64, 768) for m in range(7, 13)]
SCALED += [(8192, 32, 768), (16384, 16, 768), (32768, 8, 768), (131072, 8, 192), (1 << 20, 8, 32), (1 << 22, 8, 8)]
UNSCALED = [(length, b, 768) for length in (1000, 1024, 4096, 5000, 8192, 9000, 32768) for b in (1, 2, 8, 64)]
UNSCALED += [(1 << 20, 1, 256), (1024, 1, 16), (1024, 8, 16), (4096, 8, 32), (4096, 16, 64)]


def held(x, to, monkeypatch):
    """Bytes of the largest piece."""
    length = x.u.shape[2]
    size, wide = plan.fft_size(length), plan.wide_intermediates(plan.fft_size(length), x.u.dtype)
    pair = gradient_plan.pair_plan(size, H100, True, wide)
    row = pair or gradient_plan.backward_plan(size, x.u.element_size(), (True, True), H100, True)
    taps = x.k.shape[1] * 4
    if row is not None:
        pieces = gradient.RowBackward(row, pair is not None, Kernels({}), 0, False, H100).pieces(x, to)
        sums = lambda count, splits: 0 if splits == 1 and x.per_group == 1 else count * splits * taps  # noqa: E731
        return max(count * size * 8 + sums(count, splits) for _, count, splits in pieces)
    monkeypatch.setattr(gradient, "device_of", lambda index: H100)
    monkeypatch.setattr(gradient, "passes", lambda *options: [Kernels({})] * 5)
    long = gradient_plan.long_backward_plan(size, x.u.element_size(), wide, True, H100, True)
    each = gradient.Long(long, x, to, True, wide, False).channel_bytes()
    return max(n for _, n in channel_chunks(x.u.shape[1], x.per_group, each, gradient.spare_bytes(x, to))) * each


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("length", "batch", "channels"), SCALED + UNSCALED)
def test_a_backward_holds_less_than_three_tenths_of_what_it_reads_and_writes(
    length, batch, channels, dtype, monkeypatch
):
    u = torch.empty(batch, channels, length, dtype=dtype, device="meta")
    k = torch.empty(channels, length, device="meta")
    given = made = 3 * u.nbytes + k.nbytes
    used = held(Operands(u, k, u, u, None), gradient.Places(u, u, u, u, k, None), monkeypatch)
    assert used <= 0.3 * (given + u.nbytes + made)


@pytest.mark.parametrize(("channels", "per_group", "each", "limit"), [(8, 1, 10, 29), (12, 3, 10, 65), (5, 1, 10, 3)])
def test_chunks_of_channels_stay_under_the_limit(channels, per_group, each, limit):
    chunks = list(channel_chunks(channels, per_group, each, limit))
    assert [first for first, _ in chunks] == [sum(n for _, n in chunks[:i]) for i in range(len(chunks))]
    assert sum(n for _, n in chunks) == channels
    assert all(n % per_group == 0 and (n * each <= limit or n == per_group) for _, n in chunks)
