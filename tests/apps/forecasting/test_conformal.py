"""Intervals hold what they promise: split-conformal by counting, adaptive ones in the long run."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.apps.forecasting.conformal import RATES, Conformal, score_quantile, static_widths
from farfield.apps.forecasting.rolling import Rolled, coverage
from farfield.apps.forecasting.statistical import crps_between

AT = int(np.argmin(np.abs(RATES - 0.1)))


@pytest.mark.parametrize("n", [1, 9, 19, 99, 1000])
def test_quantile_is_the_order_statistic_of_split_conformal(n):
    scores = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    for rate in (0.05, 0.1, 0.5):
        rank = min(n, int(np.ceil((n + 1) * (1 - rate))))
        assert score_quantile(scores, np.array([rate]))[0] == rank


def test_static_widths_cover_fresh_errors_of_the_same_kind():
    random = np.random.default_rng(0)
    errors = np.abs(random.standard_normal((2000, 3))) * [1.0, 2.0, 3.0]
    widths = static_widths(errors[:1000])
    inside = (errors[1000:] <= widths[:, AT]).mean(0)
    np.testing.assert_allclose(inside, 0.9, atol=0.03)


def test_few_scores_share_their_shape():
    random = np.random.default_rng(0)
    errors = np.abs(random.standard_normal((20, 12))) * np.arange(1, 13)
    widths = static_widths(errors)
    # 240 pooled scores, of which the 90% quantile of |N(0, 1)| is 1.64.
    np.testing.assert_allclose(widths[:, AT] / np.arange(1, 13), 1.64, rtol=0.4)
    assert (np.diff(widths, axis=1) <= 0).all()


def test_horizons_never_seen_grow_and_no_score_is_no_width():
    scores = np.full((30, 4), np.nan)
    scores[:, 0] = 1.0
    assert (np.diff(static_widths(scores)[:, AT]) > 0).all()
    assert not static_widths(np.full((3, 2), np.nan)).any()


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_adaptive_coverage_comes_back_after_the_errors_change(factor):
    random = np.random.default_rng(1)
    horizon, length = 6, 3000
    y = random.standard_normal(length + horizon) * factor
    truth = np.stack([y[t : t + horizon] for t in range(length)])
    conformal = Conformal.of(np.abs(random.standard_normal((500, horizon))))
    halves = []
    for value in y[:length]:
        conformal.issue(np.zeros(horizon))
        halves.append(conformal.half())
        conformal.observe(value)
    adaptive, static = np.stack(halves), np.broadcast_to(conformal.static, (length, *conformal.static.shape))
    found = coverage(Rolled(np.arange(length), np.zeros_like(truth), truth, -adaptive, adaptive, -static, static))
    np.testing.assert_allclose(found["adaptive"].coverage, 0.9, atol=0.02)
    if factor != 1.0:
        assert (np.abs(found["static"].coverage - 0.9) > 0.05).all()
        assert found["adaptive"].crps < found["static"].crps


def test_only_completed_horizons_teach():
    one, other = (Conformal.of(np.ones((50, 5))) for _ in range(2))
    one.issue(np.zeros(5))
    other.issue(np.array([0.0, 0.0, 9.0, 9.0, 9.0]))
    for value in (0.5, 3.0):
        one.observe(value)
        other.observe(value)
    np.testing.assert_array_equal(one.shift, other.shift)
    assert one.shift[0, AT] < 0 < one.shift[1, AT]
    assert not one.shift[2:].any()


def test_a_missing_value_teaches_nothing():
    conformal = Conformal.of(np.ones((50, 3)))
    conformal.issue(np.zeros(3))
    conformal.observe(np.nan)
    assert not conformal.shift.any()
    conformal.observe(5.0)
    assert conformal.shift[1, AT] > 0
    assert not conformal.shift[[0, 2]].any()


def test_widths_interpolate_rates_and_extend_horizons():
    conformal = Conformal.of(np.abs(np.random.default_rng(0).standard_normal((400, 3))))
    widths = conformal.widths(12, np.array([0.1, 0.15, 0.2]))
    assert (np.diff(widths, axis=1) <= 0).all()
    np.testing.assert_allclose(widths[11] / widths[2], 2.0)


def test_crps_of_gaussian_intervals_is_the_closed_form():
    from scipy.stats import norm

    half = norm.ppf(1 - RATES / 2)
    for error in (0.0, 0.7, 2.5):
        closed = error * (2 * norm.cdf(error) - 1) + 2 * norm.pdf(error) - 1 / np.sqrt(np.pi)
        assert abs(crps_between(np.array([error]), np.zeros(1), -half[None], half[None]) - closed) < 0.012
