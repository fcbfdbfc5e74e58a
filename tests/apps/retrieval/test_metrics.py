"""Metrics against closed forms; intervals cover the truth as often as they say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.apps.retrieval.metrics import bootstrap, fuse, ndcg, recall, reciprocal_rank
from farfield.apps.training.errors import UserError


def test_one_relevant_document_is_worth_its_place() -> None:
    ranked = ["a", "b", "c", "d"]
    assert ndcg(ranked, {"a"}) == 1.0
    assert ndcg(ranked, {"c"}) == 1 / math.log2(4)
    assert ndcg(ranked, {"d"}, k=3) == 0.0
    assert ndcg(ranked, {"x"}) == ndcg(ranked, set()) == 0.0
    assert reciprocal_rank(ranked, {"c", "d"}) == 1 / 3
    assert reciprocal_rank(ranked, {"x"}) == 0.0


def test_several_relevant_documents_are_measured_against_the_best_order() -> None:
    ranked = ["a", "x", "b", "y", "c"]
    best = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(ranked, {"a", "b", "c"}) == pytest.approx((1 + 1 / math.log2(4) + 1 / math.log2(6)) / best)
    assert ndcg(["a", "b"], {"a", "b", "c"}, k=2) == 1.0
    assert recall(ranked, {"a", "b", "c"}, 3) == 2 / 3
    assert recall(ranked, {"a", "z"}, 10) == 0.5
    assert recall(ranked, set(), 10) == 0.0


@given(st.permutations(list(range(12))), st.sets(st.integers(0, 11), min_size=1))
def test_no_order_beats_the_best_one(ranked: list[int], relevant: set[int]) -> None:
    assert 0 <= ndcg(ranked, relevant) <= 1 + 1e-12
    best = sorted(ranked, key=lambda x: x not in relevant)
    assert ndcg(best, relevant) == pytest.approx(1)


def test_fusion_sums_weighted_reciprocal_ranks_and_keeps_the_first_order_in_ties() -> None:
    fused = dict(fuse([["a", "b", "c"], ["c", "a"]], 60))
    assert fused == pytest.approx({"a": 1 / 61 + 1 / 62, "b": 1 / 62, "c": 1 / 63 + 1 / 61})
    assert [x for x, _ in fuse([["a", "b"], ["b", "a"]], 60)] == ["a", "b"]
    assert [x for x, _ in fuse([["a"], ["b"]], 4, (1, 3))] == ["b", "a"]
    assert fuse([["a"], ["b"]], 4, (1, 3))[0][1] == 3 / 5
    assert fuse([]) == fuse([[], []]) == []


def test_intervals_of_the_mean_cover_it_as_often_as_they_say() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for i in range(200):
        found = bootstrap(rng.normal(3.0, 2.0, 60), draws=300, seed=i)
        covered += found.low <= 3.0 <= found.high
    # 95% of 200, three standard errors of a binomial either way; small samples cover a little less.
    assert 178 <= covered <= 199


def test_intervals_of_grouped_values_are_those_of_the_groups() -> None:
    rng = np.random.default_rng(3)
    means = rng.normal(0.0, 1.0, 40)
    values, groups = np.repeat(means, 25), list(np.repeat(np.arange(40), 25))
    wide, narrow = bootstrap(values, groups), bootstrap(values)
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * means.std() / math.sqrt(40), rel=0.15)
    assert (wide.high - wide.low) > 4 * (narrow.high - narrow.low)
    assert wide.mean == narrow.mean == pytest.approx(values.mean())


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 0.5]
    assert bootstrap(values, seed=4) == bootstrap(values, seed=4)
    assert bootstrap([0.25], draws=10) == (0.25, 0.25, 0.25)
    with pytest.raises(UserError, match="level=1"):
        bootstrap(values, level=1)
