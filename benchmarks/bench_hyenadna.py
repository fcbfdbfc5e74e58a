"""HyenaDNA, d_model 128 and 2 layers: a long forward pass, and a training step, against the textbook in torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Bench, Row, Times, main, measure_together, shape
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig
from farfield.apps.genomics.inference import forward_long

LONG = (2**15, 2**17, 2**20)
# The textbook holds several copies of everything: beyond this it needs more memory than the bound of a million tokens.
TEXTBOOK_MOST = 2**17
# Two fp32 computations of nested sin(10 x) differ by about 1e-4 from float64, whoever does them.
TOLERANCE = 1e-3


def textbook(model: HyenaDNA, ids: Tensor) -> Tensor:
    """The same model as the published codes compute it: every tensor whole, FFTs of length 2 L, F.conv1d."""
    length = ids.shape[1]
    x = F.embedding(ids, model.backbone.table)
    where = model.positions(length)
    for block in model.backbone.layers:
        op = block.mixer
        u = op.in_proj(block.norm1(x)).transpose(1, 2)
        u = F.conv1d(u, op.short_filter.weight, op.short_filter.bias, padding=2, groups=u.shape[1])[..., :length]
        x0, x1, v = u.chunk(3, dim=1)
        k, skip = op.filter_fn(where)[0], op.filter_fn.bias
        v = v * x1
        spectrum = torch.fft.rfft(v, 2 * length) * torch.fft.rfft(k, 2 * length)
        v = torch.fft.irfft(spectrum, 2 * length)[..., :length] + v * skip[:, None]
        x = x + op.out_proj((v * x0).transpose(1, 2))
        x = x + block.mlp(block.norm2(x))
    return F.linear(model.backbone.ln_f(x), model.backbone.table)


def step(forward: Callable[[Tensor], Tensor], model: HyenaDNA, ids: Tensor) -> list[Tensor]:
    """Gradients of the loss to the embedding and to one filter."""
    model.zero_grad()
    F.cross_entropy(forward(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    chosen = [model.backbone.table, model.backbone.layers[0].mixer.filter_fn.implicit_filter[0].weight]
    return [p.grad.clone() for p in chosen if p.grad is not None]


def rows(bench: Bench, times: dict[str, Times], passes: str, batch: int, length: int) -> Iterator[Row]:
    """A row of times and one of tokens a second for each provider."""
    sizes = shape(B=batch, L=length, d_model=128, n_layer=2)
    for provider, took in times.items():
        yield bench.row("hyenadna", provider, passes, sizes, "fp32", times=took)
        rate = batch * length / statistics.median(took.samples_ms) * 1e3
        yield bench.row("hyenadna", provider, passes, sizes, "fp32", metric="tokens/s", value=rate)


def cases(bench: Bench) -> Iterator[Row]:
    """Forward of one long sequence (and its peak memory), forward and backward of a batch of short ones."""
    torch.manual_seed(0)
    for length in (2**12,) if bench.quick else LONG:
        model = HyenaDNA(HyenaDNAConfig(l_max=length + 2)).eval().to(bench.device)
        ids = torch.randint(7, 11, (1, length), device=bench.device)
        with torch.inference_mode():
            expected = forward_long(model.double(), ids).cpu()
            model.float()
            providers = {"farfield": lambda m=model, i=ids: forward_long(m, i).cpu()}
            if length <= TEXTBOOK_MOST:
                providers |= {
                    "farfield-plain": lambda m=model, i=ids: m(i).cpu(),
                    "torch": lambda m=model, i=ids: textbook(m, i).cpu(),
                }
            how = {"expected": expected, "tolerance": TOLERANCE, "seconds": bench.seconds, "min_rounds": 3}
            times = measure_together(providers, **how)
        yield from rows(bench, times, "fwd", 1, length)
    batch, length = (2, 256) if bench.quick else (8, 1024)
    model = HyenaDNA(HyenaDNAConfig(l_max=length + 2)).eval().to(bench.device)
    ids = torch.randint(7, 11, (batch, length), device=bench.device)
    expected = step(model, model.double(), ids)
    model.float()
    providers = {
        "farfield": lambda: step(model, model, ids),
        "torch": lambda: step(lambda i: textbook(model, i), model, ids),
    }
    times = measure_together(providers, expected=expected, tolerance=TOLERANCE, seconds=bench.seconds)
    yield from rows(bench, times, "fwdbwd", batch, length)


if __name__ == "__main__":
    main("hyenadna", cases)
