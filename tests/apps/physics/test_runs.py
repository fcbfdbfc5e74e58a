"""Runs as arrays: splits by run, known boundaries, one clear message for each mistake."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from farfield.apps.physics.case import Field, Quantity, in_memory
from farfield.apps.physics.runs import Runs
from farfield.apps.training import UserError
from tests.apps.physics.small import square_case
from tests.apps.physics.surrogates import heat_cases, line_case


def test_values_parameters_and_signals_stand_run_by_run() -> None:
    cases = [square_case(static={"nu": Quantity(v, "m2 s-1")}) for v in (0.1, 0.2)]
    runs = Runs.of(cases)
    assert runs.values.shape == (2, 3, 25, 3)
    assert runs.names == ("u", "w_x", "w_y")
    np.testing.assert_allclose(runs.values[1, :, :, 0], cases[1].read("u")[..., 0], rtol=1e-6)
    np.testing.assert_allclose(runs.values[0, 2, :, 2], 1.0)
    assert runs.static.tolist() == [[0.1], [0.2]]
    np.testing.assert_allclose(runs.signals[0, :, 0], [0, 0.25, 1])
    assert runs.units["w"] == "m s-1"


def test_splits_are_of_whole_runs_and_repeatable() -> None:
    cases = [replace(case, origin={}) for case in heat_cases(8, frames=3)]
    runs = Runs.of(cases, seed=1)
    assert sorted(runs.split) == ["test", "train", "train", "train", "train", "train", "train", "valid"]
    assert runs.split == Runs.of(cases, seed=1).split
    assert len({Runs.of(cases, seed=s).split for s in range(6)}) > 1
    part = runs.part("test")
    assert part.values.shape[0] == 1
    assert part.labels[0] == cases[runs.split.index("test")].name


def test_boundaries_that_never_change_are_known_beforehand() -> None:
    runs = Runs.of(heat_cases(2, frames=5))
    assert runs.dirichlet == ("bottom", "left", "right", "top") or set(runs.dirichlet) == {
        "left",
        "right",
        "bottom",
        "top",
    }
    assert runs.held.sum() == 4 * 12
    assert Runs.of([line_case()]).dirichlet == ()
    assert Runs.of([line_case()], dirichlet=["u:left"]).held.sum() == 9
    assert Runs.of([line_case()], dirichlet=[]).held.sum() == 0


def test_inputs_are_not_predicted() -> None:
    runs = Runs.of([square_case()], inputs=["w"])
    assert runs.names == ("u",)
    assert runs.input_names == ("w",)
    assert runs.inputs.shape == (1, 3, 25, 2)


def test_what_does_not_fit_is_one_message() -> None:
    good = square_case()
    bad_values = np.zeros((3, 25, 1))
    bad_values[1, 7] = np.nan
    spoilt = replace(good, fields={"u": Field("u", "K", 1)}, reader=in_memory({"u": bad_values}))
    unit_less = replace(good, fields={"u": Field("u", None, 1)})
    mistakes: list[tuple[list[object], dict[str, object], str]] = [
        ([], {}, "no run to learn from"),
        ([square_case(frames=1, signals={}, history={})], {}, "one frame"),
        ([good], {"fields": ["v"]}, "no field 'v'"),
        ([good], {"static": ["mu"]}, "'mu' is not known"),
        ([good], {"dirichlet": ["top"]}, "no part 'top'"),
        ([good], {"dirichlet": ["v:left"]}, "'v' is none of the fields"),
        ([spoilt], {}, "1 of 25 nodes"),
        ([unit_less], {}, "no units of u"),
        ([good, replace(good, signals={})], {}, "lacks the signal"),
    ]
    for cases, options, text in mistakes:
        with pytest.raises(UserError, match=text):
            Runs.of(cases, **options)  # type: ignore[arg-type]


def test_an_empty_or_unknown_split_is_told() -> None:
    runs = Runs.of([square_case()])
    with pytest.raises(UserError, match="no run is in the split valid"):
        runs.part("valid")
    with pytest.raises(UserError, match="split=all"):
        runs.part("all")


def test_runs_like_others_have_their_fields_in_their_order() -> None:
    first = Runs.of([square_case()], ["w", "u"], dirichlet=["left"])
    again = Runs.of([square_case()], like=first)
    assert again.names == ("w_x", "w_y", "u")
    assert torch.equal(again.values, first.values)
    assert again.dirichlet == ("left",)
