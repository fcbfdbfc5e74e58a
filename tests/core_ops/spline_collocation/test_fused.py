"""The fused kernel equals the plain path: on a GPU, or interpreted on a CPU where triton is there."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from farfield.core_ops.errors import KernelUnavailable
from farfield.core_ops.spline_collocation import SplineCollocation

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@needs_triton
def test_kernel_equals_the_plain_path_with_its_gradients() -> None:
    """In a process of its own: Triton cannot read functions that the checks of shapes have wrapped."""
    root = Path(__file__).parents[3]
    script = Path(__file__).with_name("kernel_cases.py")
    paths = os.pathsep.join([str(root / ".typing"), str(root), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths} | ({"TRITON_INTERPRET": "1"} if DEVICE == "cpu" else {})
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "14 equal" in done.stdout


@needs_triton
@pytest.mark.parametrize("ends", ["periodic", "dirichlet"])
def test_what_has_no_kernel_is_told(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farfield.core_ops.spline_collocation.kernel_triton.interpreted", lambda: True)
    spline = SplineCollocation(torch.linspace(0, 1, 1001, device=DEVICE), 3, ends=ends)
    with pytest.raises(KernelUnavailable, match="impl='torch'"):
        spline(torch.ones(spline.size, device=DEVICE), spline.knots[:3], impl="triton")


@pytest.mark.skipif(DEVICE == "cuda", reason="needs a machine without a GPU")
def test_without_a_gpu_the_kernel_says_so() -> None:
    spline = SplineCollocation(torch.linspace(0, 1, 5), 3)
    with pytest.raises(KernelUnavailable, match=r"triton|NVIDIA"):
        spline(torch.ones(10), spline.knots, impl="triton")
