"""`SpaceTimeForecaster` is a forecaster of sktime in every respect."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("sktime")

from sktime.base import load
from sktime.datasets import load_airline
from sktime.utils.estimator_checks import check_estimator

from farfield.apps.forecasting.config import SpaceTimeConfig
from farfield.apps.forecasting.forecaster import SpaceTimeForecaster
from farfield.apps.forecasting.network import Network
from farfield.apps.forecasting.spacetime import SpaceTime
from farfield.apps.forecasting.stream import Stream
from farfield.apps.training.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
SMALL = {"model_dim": 4, "kernel_dim": 2, "n_kernels": 2, "dropout": 0.0}
FAST = ["test_constructor", "test_get_test_params", "test_clone", "test_set_params", "test_doctest_examples"]
FAST += ["test_save_estimators_to_file", "test_raises_not_fitted_error"]


def believe(forecaster: SpaceTimeForecaster) -> None:
    """Gives the network a say, whether it earned it or not."""
    model = forecaster.model_
    net = SpaceTime.seeded(SpaceTimeConfig(lag=model.plan.lag, horizon=4, linear_skip=True, **SMALL), 0).eval()
    torch.nn.init.normal_(net.output.linear.weight)
    model.network = Network(net, 0.5)
    model.stream = Stream.begin(net, model.stack.recent[-model.plan.lag :], np.zeros((model.plan.lag, 0)))


def quick(**settings: object) -> SpaceTimeForecaster:
    return SpaceTimeForecaster(**{"network": False, "random_state": 0, **settings})


def test_a_part_of_sktimes_checks_passes():
    found = check_estimator(SpaceTimeForecaster, raise_exceptions=True, verbose=False, tests_to_run=FAST)
    assert len(found) > 12


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_sktimes_checks_pass():
    found = check_estimator(SpaceTimeForecaster, raise_exceptions=False, verbose=False)
    assert len(found) > 300
    assert {name: said for name, said in found.items() if not isinstance(said, str) or said != "PASSED"} == {}


def test_a_year_of_airline_passengers_is_forecast():
    y = load_airline()
    forecaster = quick().fit(y[:-12], fh=range(1, 13))
    error = np.abs(forecaster.predict() - y[-12:]).mean() / np.abs(y[12:-12].to_numpy() - y[:-24].to_numpy()).mean()
    assert 0.2 < error < 1.0
    assert forecaster.model_.plan.season == 12
    ends = forecaster.predict_interval(coverage=[0.5, 0.95])
    inside = (ends["Passengers" if "Passengers" in ends else ends.columns[0][0]][0.95]["lower"] <= y[-12:]).mean()
    assert inside > 0.7


def test_a_constant_series_is_repeated_by_the_network_too():
    y = load_airline()[:100] * 0.0 + 5
    forecaster = SpaceTimeForecaster(model=SMALL, epochs=1, random_state=0).fit(y, fh=[1, 12])
    np.testing.assert_allclose(forecaster.predict(), 5.0)
    np.testing.assert_allclose(forecaster.predict_interval(coverage=0.9), 5.0)


def test_quantiles_are_ordered_and_agree_with_intervals():
    forecaster = quick().fit(load_airline(), fh=[1, 5, 30])
    quantiles = forecaster.predict_quantiles(alpha=[0.05, 0.5, 0.95])
    assert (np.diff(quantiles.to_numpy(), axis=1) > 0).all()
    np.testing.assert_allclose(quantiles.iloc[:, 1], forecaster.predict().to_numpy())
    interval = forecaster.predict_interval(coverage=0.9)
    np.testing.assert_allclose(interval.to_numpy(), quantiles.iloc[:, [0, 2]].to_numpy())


def test_the_same_seed_gives_the_same_bits():
    y = load_airline()
    settings = {"network": True, "lag": 4, "model": {**SMALL, "dropout": 0.3}, "epochs": 1, "random_state": 5}
    one, two = (quick(**settings).fit(y[:80], fh=[1, 2]).predict() for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_update_reads_what_is_new_and_only_that():
    y = load_airline()
    whole = quick(horizon=6).fit(y[:100]).update(y[100:120])
    parts = quick(horizon=6).fit(y[:100])
    for i in range(100, 120, 4):
        # Windows that overlap with what was seen come from sktime's splitters.
        parts.update(y[i - 3 : i + 4], update_params=False)
    assert whole.model_.count == parts.model_.count == 120
    np.testing.assert_array_equal(whole.predict([1, 6]), parts.predict([1, 6]))
    gap = quick(horizon=6).fit(y[:100]).update(y[103:120])
    assert gap.model_.count == 120


def test_adaptive_intervals_move_with_update_and_static_ones_do_not():
    y = load_airline()
    forecasters = [quick(horizon=3, adaptive=a).fit(y[:100]).update(y[100:]) for a in (True, False)]
    widths = [np.log(f.predict_interval([1, 2, 3], coverage=0.9)).diff(axis=1).iloc[:, 1] for f in forecasters]
    assert np.abs(widths[0] - widths[1]).max() > 1e-3
    assert forecasters[1].model_.conformal.shift.any()


def test_covariates_ahead_are_needed_and_used():
    random = np.random.default_rng(0)
    index = pd.period_range("2000-01", periods=120, freq="M")
    X = pd.DataFrame({"a": random.standard_normal(120), "b": random.standard_normal(120)}, index)
    y = pd.Series(5 + 3 * X["a"] + 0.1 * random.standard_normal(120), index, name="y")
    forecaster = quick().fit(y[:110], X=X[:110], fh=range(1, 11))
    assert np.abs(forecaster.predict(X=X[110:]) - y[110:]).mean() < 0.3
    with pytest.raises(UserError, match="give X"):
        forecaster.predict()


def test_missing_values_and_their_mistakes():
    y = load_airline().astype(float)
    y.iloc[[5, 60, 61]] = np.nan
    assert np.isfinite(quick().fit(y, fh=[1, 2]).predict()).all()
    with pytest.raises(UserError, match="all 144 values of y are missing"):
        quick().fit(y * np.nan, fh=[1])
    y.iloc[7] = np.inf
    with pytest.raises(UserError, match="infinite"):
        quick().fit(y, fh=[1])
    # sktime's own answer to a forecaster that says it does not forecast its past.
    with pytest.raises(NotImplementedError, match="in-sample"):
        quick().fit(load_airline(), fh=[-1, 1]).predict()


def test_a_pretrained_network_meets_a_new_series_without_training():
    names = ("a", "b", "c")
    parts = {n: load_airline().astype(float) * (i + 1) for i, n in enumerate(names)}
    panel = pd.concat(parts, names=["who", "when"]).to_frame("y")
    forecaster = SpaceTimeForecaster(horizon=3, lag=6, model=SMALL, epochs=1, random_state=0)
    forecaster.pretrain(panel[panel.index.get_level_values("when") < "1953"])
    assert forecaster.state == "pretrained"
    before = {k: v.clone() for k, v in forecaster.pretrained_network_.state_dict().items()}
    forecaster.fit(load_airline()[:40], fh=[1, 2, 3])
    after = forecaster.pretrained_network_.state_dict()
    assert all((before[k] == after[k]).all() for k in before)
    assert np.isfinite(forecaster.predict()).all()
    assert forecaster.model_.network is None or forecaster.model_.network.net is forecaster.pretrained_network_


@pytest.mark.parametrize("kind", ["period", "datetime", "zone", "integer"])
def test_a_saved_forecaster_goes_on_as_it_was(tmp_path, kind):
    y = load_airline().astype(float)
    y.index = {
        "period": y.index,
        "datetime": pd.date_range("2000-01-01", periods=144, freq="h"),
        "zone": pd.date_range("2000-01-01", periods=144, freq="D", tz="Europe/Berlin"),
        "integer": pd.RangeIndex(144),
    }[kind]
    # One kind with the network, whose state moves with the series too.
    forecaster = quick(network=kind == "period", horizon=4, lag=6, model=SMALL, epochs=1, season=12)
    forecaster.fit(y[:130], fh=[1, 2, 4])
    if kind == "period":
        believe(forecaster)
    forecaster.update(y[130:135])
    forecaster.save(tmp_path / "it")
    again = SpaceTimeForecaster.load_from_path(tmp_path / "it.zip")
    assert again.get_params() == forecaster.get_params()
    for one in (forecaster, again):
        one.update(y[135:140])
    pd.testing.assert_series_equal(forecaster.predict(), again.predict())
    pd.testing.assert_frame_equal(forecaster.predict_interval(), again.predict_interval())
    pd.testing.assert_series_equal(load(str(tmp_path / "it")).update(y[135:140]).predict(), again.predict())


def test_several_series_are_saved_together(tmp_path):
    y = load_airline().astype(float).to_frame("a")
    y["b"] = y["a"][::-1].to_numpy()
    forecaster = quick(horizon=3).fit(y, fh=[1, 2, 3])
    forecaster.save(tmp_path / "them")
    again = SpaceTimeForecaster.load_from_path(tmp_path / "them.zip")
    pd.testing.assert_frame_equal(again.predict(), forecaster.predict())


def test_nothing_of_a_file_is_unpickled(tmp_path):
    forecaster = quick().fit(load_airline(), fh=[1])
    forecaster.save(tmp_path / "it")
    with zipfile.ZipFile(tmp_path / "it.zip") as archive:
        parts = {name: archive.read(name) for name in archive.namelist() if name != "_metadata"}
    assert set(parts) == {"forecaster.json", "model.safetensors"}
    assert json.loads(parts["forecaster.json"])["format"] == "farfield-forecaster"
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    again = SpaceTimeForecaster.load_from_path(tmp_path / "bare.zip")
    np.testing.assert_array_equal(again.predict(), forecaster.predict())
    (tmp_path / "bad.zip").write_text("no")
    with pytest.raises(UserError, match="holds no forecaster"):
        SpaceTimeForecaster.load_from_path(tmp_path / "bad.zip")
