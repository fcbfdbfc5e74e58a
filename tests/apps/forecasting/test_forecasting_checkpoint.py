"""A network comes back from its files as it went in, and damaged files are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from farfield.apps.forecasting.checkpoint import load, save
from farfield.apps.training.errors import UserError
from tests.apps.forecasting.networks import SHAPES, network, series


@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_comes_back(tmp_path: Path, shape: str) -> None:
    net = network(shape)
    save(net, tmp_path, {"scale": [1.5], "columns": ["OT"]})
    back, facts = load(tmp_path)
    assert facts == {"scale": [1.5], "columns": ["OT"]}
    assert back.config == net.config
    inputs = series(net, 2, 30, 12)
    assert torch.equal(net(*inputs), back(*inputs))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_float64_network_stays_one(tmp_path: Path) -> None:
    save(network().double(), tmp_path)
    assert next(load(tmp_path)[0].parameters()).dtype == torch.float64


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        load(tmp_path)
    path = save(network(), tmp_path)
    whole, config = path.read_bytes(), json.loads((tmp_path / "config.json").read_text())
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="damaged"):
        load(tmp_path)
    path.write_bytes(whole)
    for change, word in (
        ({"format": "x"}, "format"),
        ({"model": {**config["model"], "n_blocks": 2}}, "missing or unk"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=word):
            load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model": {**config["model"], "kernel_dim": 9}}))
    with pytest.raises(UserError, match="shape"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not readable"):
        load(tmp_path)
