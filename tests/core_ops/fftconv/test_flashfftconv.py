"""impl="flashfftconv" against a stand-in that records its calls, and the package itself where it is importable."""

import importlib.machinery
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from farfield.core_ops import KernelUnavailable, fftconv
from farfield.core_ops.fftconv import flashfft
from farfield.core_ops.fftconv.call import check
from farfield.core_ops.fftconv.op import REGISTRY


class Recorded(torch.nn.Module):
    """A module with the constructor and the forward of FlashFFTConv."""

    made: ClassVar[list[tuple[int, torch.dtype]]] = []
    calls: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, seqlen: int, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.made.append((seqlen, dtype))

    def to(self, *args: Any, **kwargs: Any) -> "Recorded":
        return self

    def forward(self, u: Tensor, k: Tensor, pregate: Tensor | None = None, postgate: Tensor | None = None) -> Tensor:
        assert self.training
        assert all(x is None or x.is_contiguous() for x in (u, k, pregate, postgate))
        self.calls.append((u.dtype, k.dtype, u.shape, pregate is None))
        return fftconv(u, k, pregate=pregate, postgate=postgate)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Recorded]]:
    """A package flashfftconv."""
    fake = ModuleType("flashfftconv")
    fake.__spec__ = importlib.machinery.ModuleSpec("flashfftconv", None)
    fake.FlashFFTConv = Recorded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flashfftconv", fake)
    Recorded.made, Recorded.calls = [], []
    flashfft.module.cache_clear()
    yield Recorded
    flashfft.module.cache_clear()


def call_of(**changes: Any) -> Any:
    """A checked call that it can run, on a GPU, but for the changes."""
    length = changes.pop("length", 1024)
    given: dict[str, Any] = {
        "u": torch.empty(2, 16, length, dtype=torch.float16), "k": torch.empty(16, length), "mode": "causal",
        "pregate": None, "postgate": None, "skip": None, "seq_idx": None, "precision": "auto", "layout": "bhl",
    }  # fmt: skip
    device = changes.pop("device", "cuda")
    call = check(**(given | changes))
    object.__setattr__(call, "device", device)
    return call


def test_it_is_named_only_and_says_when_it_is_absent() -> None:
    assert not REGISTRY.implementations["flashfftconv"].automatic
    with pytest.raises(KernelUnavailable, match="flashfftconv is not importable"):
        fftconv(torch.randn(1, 1, 256).half(), torch.randn(1, 256), impl="flashfftconv")


def test_modules_are_made_once_a_size_and_dtype(package: type[Recorded]) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float16):
        u, k, gate = torch.randn(2, 16, 1024).to(dtype), torch.randn(16, 1024), torch.randn(2, 16, 1024).to(dtype)
        turned = u.transpose(1, 2)
        y = flashfft.run_flashfftconv(call_of(u=u), u, k, gate, gate, None, None)
        assert torch.equal(y, fftconv(u, k, pregate=gate, postgate=gate))
        z = flashfft.run_flashfftconv(call_of(u=turned, layout="blh"), turned, k, None, None, None, None)
        assert torch.equal(z.transpose(1, 2), fftconv(u, k))
        assert z.is_contiguous()
    assert package.made == [(2048, torch.float16), (2048, torch.bfloat16)]
    assert len(package.calls) == 6
    assert all(k == torch.float32 for _, k, _, _ in package.calls)


def test_circular_takes_the_length_itself(package: type[Recorded]) -> None:
    assert flashfft.fft_size(call_of(mode="circular")) == 1024
    assert flashfft.fft_size(call_of(length=30)) == 256
    assert flashfft.refuses(call_of(mode="circular")) is None
    assert flashfft.refuses(call_of(length=1 << 21)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "cpu"}, "u is on cpu"),
        ({"u": torch.empty(2, 16, 1024)}, "float16 and bfloat16"),
        ({"k": torch.empty(16, 1024, dtype=torch.float64)}, "cast k to float32"),
        ({"mode": "full"}, "causal and circular"),
        ({"seq_idx": torch.zeros(2, 1024, dtype=torch.int64)}, "seq_idx"),
        ({"skip": torch.empty(16)}, "no skip"),
        ({"pregate": torch.empty(2, 16, 1024, dtype=torch.float16)}, "both gates or neither"),
        ({"k": torch.empty(4, 1024)}, "4 filters for 16 channels"),
        ({"k": torch.empty(16, 1000)}, "1000 taps"),
        ({"length": 1000, "mode": "circular"}, "no power of two"),
        ({"length": 128, "mode": "circular"}, "needs an FFT of 128"),
        ({"length": 1 << 22}, "needs an FFT of 8388608"),
        ({"length": 1023}, "even L"),
        ({"length": 1022}, "multiple of 4"),
        ({"u": torch.empty(2, 12, 1 << 15, dtype=torch.float16), "k": torch.empty(12, 1 << 15)}, "multiple of 16"),
        ({"precision": "fp16x"}, "fp16x"),
    ],
)  # fmt: skip
def test_its_limits_are_errors(package: type[Recorded], changes: dict[str, Any], words: str) -> None:
    reason = flashfft.refuses(call_of(**changes))
    assert reason is not None
    assert words in reason
    assert flashfft.refuses(call_of()) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the package itself was NOT run")
@pytest.mark.skipif(find_spec("flashfftconv") is None, reason="flashfftconv is not installed: it was NOT run")
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("mode", "length"),
    [("causal", 128), ("causal", 1000), ("causal", 4096), ("causal", 16384), ("causal", 65536), ("circular", 1024)],
)
def test_the_package_itself_agrees(mode: str, length: int, dtype: torch.dtype, gated: bool) -> None:
    u, p, q = (torch.randn(2, 16, length, device="cuda").to(dtype) for _ in range(3))
    k = torch.randn(16, length, device="cuda") / length**0.5
    gates = {"pregate": p, "postgate": q} if gated else {}
    ours, theirs = (fftconv(u, k, mode=mode, impl=impl, **gates) for impl in ("torch", "flashfftconv"))  # type: ignore[arg-type]
    assert theirs.dtype == dtype
    assert theirs.shape == ours.shape
    assert (theirs.float() - ours.float()).norm() / ours.float().norm() < 2e-2
