"""The classification head tells apart what differs in its dynamics."""

from __future__ import annotations

import pytest
import torch

from farfield.apps.forecasting.classify import SpaceTimeClassifier, train_classifier
from farfield.apps.forecasting.config import SpaceTimeConfig
from farfield.apps.training.errors import UserError

CONFIG = SpaceTimeConfig(lag=40, horizon=1, targets=2, model_dim=16, kernel_dim=8, n_kernels=4, max_average=20)


def waves(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes of the same level and deviation: periods of 9 and of 11, at random phases."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    phase = 6.28 * torch.rand(count, 1, 2, generator=g)
    t = torch.arange(40)[None, :, None] / (9.0 + 2 * labels)[:, None, None]
    return (6.28 * t + phase).sin() + 0.1 * torch.randn(count, 40, 2, generator=g), labels


def test_periods_are_told_apart_and_a_seed_gives_the_same_bits() -> None:
    y, labels = waves(64, 0)
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        net = SpaceTimeClassifier(CONFIG, 2)
        train_classifier(net, y, labels, epochs=25, lr=1e-2)
        nets.append(net)
    unseen, truth = waves(100, 1)
    assert float((nets[0](unseen).argmax(1) == truth).float().mean()) > 0.9
    assert torch.equal(nets[0].head.weight, nets[1].head.weight)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="classes=1"):
        SpaceTimeClassifier(CONFIG, 1)
    y, labels = waves(4, 0)
    with pytest.raises(UserError, match="one label"):
        train_classifier(SpaceTimeClassifier(CONFIG, 2), y, labels[:3])
