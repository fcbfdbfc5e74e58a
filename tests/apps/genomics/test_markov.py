"""Markov models against closed forms."""

import itertools

import numpy as np
import pytest

from farfield.apps.genomics.markov import MAX_ORDER, MarkovModel
from farfield.apps.training import UserError


def draw(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, length).astype(np.uint8)


def test_uniform_sequences_cost_two_bits():
    model = MarkovModel([draw(200_000)], 6)
    assert model.bits_per_base(draw(50_000, seed=1)) == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("order", [3, 8])
def test_a_period_shorter_than_the_order_costs_nothing(order):
    periodic = np.tile(np.array([0, 1, 1], np.uint8), 20_000)
    model = MarkovModel([periodic], order, reverse_complement=False)
    assert model.bits_per_base(periodic, start=order) < 0.01
    assert model.bits_per_base(periodic, order=0) > 0.9


@pytest.mark.parametrize("both_strands", [False, True])
def test_probabilities_of_the_next_base_sum_to_one(both_strands):
    model = MarkovModel([draw(5_000), draw(700, seed=2)], 4, reverse_complement=both_strands)
    for context in itertools.product(range(4), repeat=4):
        last = [model.nats(np.array([*context, base], np.uint8))[-1] for base in range(4)]
        assert np.exp(-np.array(last, np.float64)).sum() == pytest.approx(1, abs=1e-6)


def test_a_case_counted_by_hand():
    # A A C A A C ...: after A comes A or C, after C always A. Order 1 on 'AAC' repeated 100 times.
    model = MarkovModel([np.tile(np.array([0, 0, 1], np.uint8), 100)], 1, reverse_complement=False)
    a0, a1 = model.strengths
    p0 = (200 + a0 * 0.25) / (300 + a0)
    p_after_c = (99 + a1 * p0) / (99 + a1)
    assert model.nats(np.array([1, 0], np.uint8))[1] == pytest.approx(-np.log(p_after_c), rel=1e-5)


def test_a_longer_context_beats_a_shorter_one_where_it_matters():
    # Each base is decided by the one three before it, with a tenth of noise.
    random = np.random.default_rng(3)
    codes = draw(100_000, seed=4)
    for t in range(3, len(codes)):
        if random.random() < 0.9:
            codes[t] = (codes[t - 3] + 1) % 4
    model = MarkovModel([codes[:80_000]], 5, reverse_complement=False)
    bits = [model.bits_per_base(codes, order=k, start=80_000) for k in range(6)]
    p = 0.9 + 0.1 / 4
    expected = -(p * np.log2(p) + (1 - p) * np.log2((1 - p) / 3))
    assert bits[2] > 1.9
    assert bits[3] == pytest.approx(expected, abs=0.03)
    assert bits[5] < 1.05 * bits[3]


def test_unknown_bases_are_not_scored_and_no_context_reaches_across_them():
    codes = draw(20_000)
    model = MarkovModel([codes], 3)
    with_gap = np.array([0, 1, 2, 4, 3, 0], np.uint8)
    nats = model.nats(with_gap)
    assert np.isnan(nats[3])
    assert nats[4] == model.nats(np.array([3], np.uint8))[0]
    assert nats[5] == model.nats(np.array([3, 0], np.uint8))[1]


def test_the_other_strand_counts_the_same():
    codes = draw(30_000)
    codes[::7] = 0
    other = (3 - codes)[::-1].copy()
    model = MarkovModel([codes], 2)
    mirrored = MarkovModel([other], 2)
    for counts, same in zip(model.counts, mirrored.counts, strict=True):
        np.testing.assert_array_equal(counts, same)


@pytest.mark.parametrize("order", [-1, MAX_ORDER + 1])
def test_an_order_out_of_range_is_refused(order):
    with pytest.raises(UserError, match="0 to 12"):
        MarkovModel([draw(100)], order)


def test_a_sequence_without_bases_is_refused():
    with pytest.raises(UserError, match="training bases"):
        MarkovModel([np.full(10, 4, np.uint8)], 2)
