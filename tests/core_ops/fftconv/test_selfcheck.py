"""Kernels on an architecture that was never run on: compared first, replaced by torch.fft where they are wrong."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from farfield.core_ops.fftconv.cuda import engine, selfcheck

Kernel = Callable[..., Any]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of compute capability 12.0, nothing checked yet."""
    monkeypatch.setattr(selfcheck, "capability", lambda index: (12, 0))
    monkeypatch.setattr(selfcheck, "verdicts", {})
    monkeypatch.setattr(selfcheck, "warned", set())


def trusted(kernel: Kernel, name: str = "forward", length: int = 200, dtype: torch.dtype = torch.float32) -> bool:
    """selfcheck.trusted of a stand-in for a kernel."""
    composite = engine.by_torch if name == "forward" else engine.gradients_by_torch
    return selfcheck.trusted(0, name, length, dtype, (True, False), (False,), kernel, composite)


def test_a_right_kernel_is_checked_once_and_taken() -> None:
    calls = []

    def kernel(*given: Any) -> Tensor:
        calls.append(given[0].shape)
        return engine.by_torch(*given)

    with pytest.warns(UserWarning, match="compiled for sm_120, but never run on it"):
        assert trusted(kernel)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trusted(kernel)
        assert calls == [(2, 2, 200)]
        assert trusted(kernel, length=300, dtype=torch.bfloat16)
        assert calls[1:] == [(2, 2, 300)]


@pytest.mark.parametrize("wrong", ["scaled", "zero", "nan", "raises"])
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_a_wrong_kernel_is_reported_once_and_not_taken(wrong: str, name: str) -> None:
    def kernel(*given: Any) -> Any:
        if wrong == "raises":
            raise RuntimeError("no kernel image")
        factor = {"scaled": 1.01, "zero": 0.0, "nan": float("nan")}[wrong]
        if name == "forward":
            return factor * engine.by_torch(*given)
        return tuple(x if x is None else factor * x for x in engine.gradients_by_torch(*given))

    with pytest.warns(UserWarning, match="fftconv") as said:
        assert not trusted(kernel, name)
    assert [w for w in said if f"the CUDA {name} kernel for 200 samples" in str(w.message)]
    assert [w for w in said if "torch.fft runs instead" in str(w.message)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not trusted(kernel, name)


def test_an_architecture_that_was_run_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "capability", lambda index: selfcheck.RUN_ON[0])
    assert trusted(lambda *given: None)
    assert not selfcheck.verdicts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_our_kernels_pass_their_own_check() -> None:
    from farfield.core_ops import fftconv

    u, k = torch.randn(2, 4, 1000, device="cuda"), torch.randn(4, 1000, device="cuda", requires_grad=True)
    with pytest.warns(UserWarning, match="never run"):
        fftconv(u, k, impl="cuda").sum().backward()
    assert all(selfcheck.verdicts.values())
    assert {key[1] for key in selfcheck.verdicts} == {"forward", "backward"}
