"""Devices, precisions, budgets, schedules, and what can be imported cheaply."""

import math
import subprocess
import sys

import pytest
import torch

from farfield.apps.training import TrainerConfig, UserError
from farfield.apps.training.device import autocast_for, resolve_device
from farfield.apps.training.schedule import cosine_with_warmup
from farfield.apps.training.trainer import parse_budget


def test_the_package_loads_neither_torch_nor_lightning():
    code = (
        "import sys, farfield.apps.training, farfield.apps.training.run_folder as r\n"
        "print([m for m in ('torch', 'lightning', 'numpy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert done.stdout.strip() == "[]"


def _environment():
    import os
    from pathlib import Path

    root = Path(__file__).resolve().parents[3]
    return os.environ | {"PYTHONPATH": f"{root / '.typing'}{os.pathsep}{root}"}


def test_the_lazy_names_are_the_real_ones():
    import farfield.apps.training as training
    from farfield.apps.training.trainer import fit

    assert training.fit is fit
    assert all(getattr(training, name) is not None for name in training.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = training.nothing


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800), (5, 5), ("0.5", 0.5), (None, None)],
)
def test_a_budget_is_a_time(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10 minutes", "-5", 0, "m10", "nan", "inf", "5x"])
def test_what_is_no_time_is_no_budget(text):
    with pytest.raises(UserError, match=r"budget=.* is no time; give seconds"):
        parse_budget(text)


@pytest.mark.parametrize(
    "mistake",
    [
        {"max_steps": 0},
        {"max_steps": 2.5},
        {"accumulate": 0},
        {"keep_last": 0},
        {"val_every": -1},
        {"devices": "two"},
        {"mode": "up"},
        {"gradient_clip": -1.0},
        {"gradient_clip": math.nan},
        {"patience": 3},
        {"log_every": True},
    ],
)
def test_a_mistaken_setting_is_named(tmp_path, mistake):
    with pytest.raises(UserError, match=next(iter(mistake))):
        TrainerConfig(**{"run_folder": tmp_path, "max_steps": 5} | mistake)


def test_null_in_yaml_means_none(tmp_path):
    config = TrainerConfig(run_folder=tmp_path, max_steps=1, val_every=None, patience=None, gradient_clip=None)
    assert (config.val_every, config.patience, config.gradient_clip) == (0, 0, 0)


def test_a_device_is_what_it_says(monkeypatch):
    assert resolve_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(UserError, match="device=cuda was asked for, but"):
        resolve_device("cuda")
    with pytest.raises(UserError, match="accepted: auto, cpu, cuda"):
        resolve_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == resolve_device("cuda").type == "cuda"


def test_a_precision_is_what_it_says():
    cpu = torch.device("cpu")
    a = torch.ones(2, 2)
    with autocast_for("fp32", cpu):
        assert (a @ a).dtype == torch.float32
    with autocast_for("bf16", cpu):
        assert (a @ a).dtype == torch.bfloat16
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        autocast_for("fp16", cpu)
    with pytest.raises(UserError, match="accepted: fp32, bf16, fp16"):
        autocast_for("int8", cpu)


def test_the_schedule_follows_its_formula():
    heads = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": heads[:1], "lr": 6e-4}, {"params": heads[1:], "lr": 1e-3}])
    schedule = cosine_with_warmup(optimizer, 200, warmup_fraction=0.1, lr_min_ratio=0.1)
    for step in range(220):
        for group, peak in zip(optimizer.param_groups, (6e-4, 1e-3), strict=True):
            if step < 20:
                expected = 1e-6 + (peak - 1e-6) * step / 20
            else:
                cosine = (1 + math.cos(math.pi * min(1.0, (step - 20) / 180))) / 2
                expected = peak * (0.1 + 0.9 * cosine)
            assert group["lr"] == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("mistake", [{"max_steps": 0}, {"warmup_fraction": 1.5}, {"lr_min_ratio": -0.1}])
def test_a_schedule_out_of_range_is_refused(mistake):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match=next(iter(mistake))):
        cosine_with_warmup(optimizer, **{"max_steps": 10} | mistake)
