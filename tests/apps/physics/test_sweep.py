"""Sweeps: combinations, draws, and splits by whole runs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from farfield.apps.physics.sweep import plan
from farfield.apps.training import UserError

NONE = {"valid": 0.0, "test": 0.0, "extrapolate": 0.0}


def test_listed_values_come_in_turn() -> None:
    runs = plan({"nu": [1, 2], "c": [5, 6]}, 6, "listed", NONE, 0)
    assert [(r.parameters["nu"], r.parameters["c"]) for r in runs] == [(1, 5), (1, 6), (2, 5), (2, 6), (1, 5), (1, 6)]
    assert [r.name for r in runs][-1] == "run-0005"


def test_drawn_values_lie_between_and_depend_on_the_seed() -> None:
    one, two, other = (
        [r.parameters["nu"] for r in plan({"nu": [1e-4, 1e-1], "c": [3]}, 200, "log", NONE, seed)] for seed in (0, 0, 1)
    )
    assert one == two != other
    assert min(one) > 1e-4
    assert max(one) < 1e-1
    assert np.median(np.log10(one)) == pytest.approx(-2.5, abs=0.3)
    assert {r.parameters["c"] for r in plan({"nu": [1, 2], "c": [3]}, 9, "uniform", NONE, 0)} == {3}


def test_splits_are_of_whole_runs_and_the_far_ones_are_the_largest() -> None:
    runs = plan({"re": [50, 150]}, 40, "uniform", {"valid": 0.1, "test": 0.2, "extrapolate": 0.1}, 3)
    assert Counter(r.split for r in runs) == {"train": 24, "valid": 4, "test": 8, "extrapolate": 4}
    far = [r.parameters["re"] for r in runs if r.split == "extrapolate"]
    assert min(far) > max(r.parameters["re"] for r in runs if r.split != "extrapolate")


def test_random_numbers_of_a_run_do_not_depend_on_the_others() -> None:
    few, many = plan({"nu": [1]}, 3, "listed", NONE, 7), plan({"nu": [1]}, 9, "listed", NONE, 7)
    assert few[2].generator(7).uniform() == many[2].generator(7).uniform() != many[3].generator(7).uniform()


@pytest.mark.parametrize(
    ("swept", "runs", "sampling", "split", "said"),
    [
        ({"nu": [1, 2, 3]}, 2, "listed", {}, "3 combinations"),
        ({"nu": []}, 2, "listed", {}, "list of values"),
        ({"nu": 3}, 2, "listed", {}, r"equation.nu=\[3\]"),
        ({"nu": [0, 1]}, 2, "log", {}, "numbers above 0"),
        ({"nu": [1]}, 0, "listed", {}, "runs=0"),
        ({"nu": [1]}, 2, "grid", {}, "listed, uniform, log"),
        ({"nu": [1]}, 4, "listed", {"test": 0.6, "valid": 0.5}, "none is left"),
        ({"nu": [1]}, 4, "listed", {"test": 2.0}, "split.test=2.0"),
        ({"nu": [1]}, 4, "listed", {"extrapolate": 0.5}, "same parameters"),
    ],
)
def test_a_wrong_setting_is_named(swept: dict, runs: int, sampling: str, split: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan(swept, runs, sampling, NONE | split, 0)
