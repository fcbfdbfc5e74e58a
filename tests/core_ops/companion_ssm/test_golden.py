"""companion_ssm gives what the official SpaceTime code computes on random systems, its gradients included."""

import pytest
import torch
from torch import Tensor

from farfield.core_ops import fftconv
from farfield.core_ops.companion_ssm import closed_loop_kernel, companion_kernel, krylov, last_state
from tests.golden import golden

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-6}


def close(y: Tensor, expected: Tensor, dtype: torch.dtype = torch.float64) -> None:
    """Within the bound, relative to the largest entry; zeros would not be."""
    scale = expected.abs().max()
    assert scale > 0
    assert (y.double() - expected.double()).abs().max() <= TOLERANCE[dtype] * scale


def normalised(v: Tensor, order: int) -> Tensor:
    """What the official layer does to its parameters; order 0 leaves them."""
    return v / v.norm(p=order, dim=-1, keepdim=True) if order else v


@pytest.mark.parametrize("name", ["krylov_0", "krylov_1", "krylov_2"])
def test_kernel_and_states_are_those_of_the_official_krylov(name: str) -> None:
    t, facts = golden("spacetime", name)
    p, b, c = (t[key].clone().requires_grad_() for key in "pbc")
    kernel = companion_kernel(p, b, c, facts["L"])
    close(kernel, t["kernel"])
    close(krylov(p, b, facts["L"]), t["states"])
    close(companion_kernel(p.float(), b.float(), c.float(), facts["L"]), t["kernel"], torch.float32)
    for mine, key in zip(torch.autograd.grad((kernel * t["w"]).sum(), (p, b, c)), "pbc", strict=True):
        close(mine, t[f"grad.{key}"])


@pytest.mark.parametrize(
    "name", ["companion_ssm_0", "companion_ssm_1_l2norm_noskip", "companion_ssm_2_headdim3_nonorm", "shift_ssm_0"]
)
def test_layer_is_the_official_one(name: str) -> None:
    t, facts = golden("spacetime", name)
    names = ["c"] if "shift" in name else ["a", "b", "c"]
    if facts["kwargs"]["skip_connection"]:
        names.append("skip")
    leaves = {n: t[f"param.{n}"].clone().requires_grad_() for n in names}
    x = t["x"].clone().requires_grad_()
    given = {n: t[f"param.{n}"] for n in "abc"} | leaves
    a = normalised(given["a"], facts["kwargs"]["norm_order"])
    kernel = companion_kernel(a, given["b"], given["c"], facts["L"])
    close(kernel, t["kernel"])
    each = x.shape[-1] // kernel.shape[0]
    y = fftconv(x, kernel.repeat_interleave(each, 0), skip=leaves.get("skip"), layout="blh")
    close(y, t["out0"])
    grads = torch.autograd.grad((y * t["w0"]).sum(), [x, *leaves.values()])
    close(grads[0], t["grad.x"])
    for mine, n in zip(grads[1:], leaves, strict=True):
        close(mine, t[f"grad.{n}"])


@pytest.mark.parametrize("name", ["companion_closed", "companion_l2norm", "shift_closed"])
def test_closed_loop_is_the_official_one(name: str) -> None:
    t, facts = golden("spacetime", f"closedloop_{name}")
    order, horizon = facts["kwargs"]["norm_order"], facts["kwargs"]["horizon"]
    leaves = {n: t[f"param.{n}"].clone().requires_grad_() for n in ("ck" if "shift" in name else "abck")}
    x = t["x"].clone().requires_grad_()
    given = {n: t[f"param.{n}"] for n in "abck"} | leaves
    a = given["a"] if "shift" in name else normalised(given["a"], order)
    b, c, k = (normalised(given[n], order) for n in "bck")
    # Officially b is not normalised where the window is read, k not where the inputs are read.
    state = last_state(x.transpose(1, 2), a, given["b"])
    outputs = closed_loop_kernel(a, b, torch.stack([c, given["k"]]), k, horizon)
    y, u = torch.einsum("bhd,ohdt->obth", state, outputs)
    close(y, t["out0"])
    loss = (y * t["w0"]).sum()
    if "out1" in t:
        close(u, t["out1"])
        loss = loss + (u * t["w1"]).sum()
    grads = torch.autograd.grad(loss, [x, *leaves.values()])
    close(grads[0], t["grad.x"])
    for mine, n in zip(grads[1:], leaves, strict=True):
        close(mine, t[f"grad.{n}"])


@pytest.mark.parametrize("name", ["companion_open", "shift_open"])
def test_open_loop_is_the_official_one(name: str) -> None:
    t, facts = golden("spacetime", f"closedloop_{name}")
    order = facts["kwargs"]["norm_order"]
    a, b, c, k = (t[f"param.{n}"] for n in "abck")
    a = a if "shift" in name else normalised(a, order)
    kernels = companion_kernel(a, normalised(b, order), normalised(torch.stack([c, k]), order), facts["L"])
    for kernel, expected in zip(kernels, (t["out0"], t["out1"]), strict=True):
        close(fftconv(t["x"], kernel, layout="blh"), expected)
