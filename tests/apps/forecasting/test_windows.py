"""Windows are views of the series in order, none missing, none across two series."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farfield.apps.forecasting.windows import Windows
from farfield.apps.training.errors import UserError


def test_every_window_once_and_in_order() -> None:
    windows = Windows(np.arange(20.0), 5, 3)
    assert len(windows) == 13
    batches = list(windows.batches(4))
    assert [len(b.y) for b in batches] == [4, 4, 4, 1]
    whole = torch.cat([torch.cat([b.y, b.future], 1) for b in batches])[..., 0]
    assert torch.equal(whole, torch.arange(13.0)[:, None] + torch.arange(8.0))
    assert windows.complete
    assert all(v is None for v in batches[0][2:])


def test_a_panel_has_no_window_across_two_series() -> None:
    one, two, short = np.arange(10.0), 100 + np.arange(9.0), np.arange(3.0)
    windows = Windows([one, short, two], 4, 2)
    batch = windows.batch(slice(None))
    assert len(windows) == 5 + 4
    whole = torch.cat([batch.y, batch.future], 1)[..., 0]
    assert bool((whole.diff(dim=1) == 1).all())
    assert whole[:, 0].tolist() == [0, 1, 2, 3, 4, 100, 101, 102, 103]


def test_covariates_lie_beside_their_rows() -> None:
    t = np.arange(12.0)
    windows = Windows(np.stack([t, 10 * t], 1), 4, 2, known=2 * t, past=np.stack([3 * t, 4 * t, 5 * t], 1))
    batch = windows.batch(torch.tensor([5, 0]))
    assert batch.y.shape == (2, 4, 2)
    assert batch.known is not None
    assert batch.past is not None
    assert torch.equal(batch.known[..., 0], 2 * torch.cat([batch.y, batch.future], 1)[..., 0])
    assert torch.equal(batch.past[..., 2], 5 * batch.y[..., 0])
    assert (windows.targets, windows.known) == (2, 1)
    assert windows.select(known=False).batch(slice(0, 1)).known is None


def test_gaps_are_marked_and_hold_no_nan() -> None:
    y = np.arange(12.0)
    y[6] = np.nan
    batch = Windows(y, 4, 2).batch(slice(None))
    assert batch.observed is not None
    assert batch.future_observed is not None
    whole = torch.cat([batch.y, batch.future], 1)
    marks = torch.cat([batch.observed, batch.future_observed], 1)
    assert not bool(whole.isnan().any())
    assert int((~marks).sum()) == 6
    assert bool((whole[~marks] == 0).all())


def test_stride_and_the_first_forecast_row() -> None:
    windows = Windows(np.arange(30.0), 5, 2, first=10, stride=3)
    assert windows.batch(slice(None)).future[:, 0, 0].tolist() == [10, 13, 16, 19, 22, 25, 28]


def test_nothing_is_copied() -> None:
    windows = Windows(np.arange(100_000.0), 500, 100)
    held = sum(v.numel() for v in windows.__dict__.values() if isinstance(v, torch.Tensor))
    assert held < 3 * 100_000


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ((np.arange(5.0), 4, 2), "longest series has 5"),
        ((np.zeros((3, 2, 2)), 1, 1), "shape"),
        (([np.zeros((9, 2)), np.zeros(9)], 2, 1), "1, 2 columns"),
        ((np.array([1, np.inf, 3, 4]), 1, 1), "infinite"),
    ],
)
def test_unfit_series_are_refused(given: tuple[np.ndarray, int, int], word: str) -> None:
    with pytest.raises(UserError, match=word):
        Windows(*given)


def test_unfit_covariates_are_refused() -> None:
    with pytest.raises(UserError, match="rows"):
        Windows(np.zeros(9), 2, 1, known=np.zeros(8))
    with pytest.raises(UserError, match="missing values"):
        Windows(np.zeros(9), 2, 1, past=np.full(9, np.nan))
