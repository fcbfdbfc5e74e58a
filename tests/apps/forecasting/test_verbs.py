"""The verbs fit, predict and backtest: from a CSV file to results, mistakes in one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sktime")
pytest.importorskip("matplotlib")

from farfield.apps.cli import main
from farfield.apps.forecasting.rolling import Score
from farfield.apps.forecasting.settings import verdict

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
ROOT = Path(__file__).parents[3]
ROWS = "rows=[last value,seasonal naive,ridge on lags]"
QUICK = ("network=false", ROWS)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a file of 150 days of one's own, and the covariates of 14 more."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    days = pd.date_range("2022-01-01", periods=164, freq="D")
    heat = random.standard_normal(164)
    load = 50 + 5 * np.sin(2 * np.pi * np.arange(164) / 7) + 4 * heat + 0.5 * random.standard_normal(164)
    frame = pd.DataFrame({"date": days, "load": load.round(4), "heat": heat.round(4)})
    frame[:150].to_csv("my.csv", index=False)
    frame[:157].to_csv("newer.csv", index=False)
    frame[["date", "heat"]][150:].to_csv("ahead.csv", index=False)
    frame[["date", "load"]][157:].to_csv("truth.csv", index=False)
    frame.replace({"load": {frame["load"][7]: np.inf}}).to_csv("bad.csv", index=False)
    (tmp_path / "noise.csv").write_bytes(b"a,b\n1,2\n" + bytes(range(1, 256)) + b"\n1,2,3,4\n")
    return tmp_path


def run(verb: str, *words: str) -> Path:
    assert main(["forecasting", verb, *words]) == 0
    return max(Path("runs/forecasting", verb).iterdir(), key=lambda p: p.stat().st_ctime_ns)


def test_fit_then_predict(folder, capsys):
    fitted = run("fit", "data=my.csv", "target=load", "horizon=7", "compare=2", *QUICK)
    said = capsys.readouterr().out
    assert "frequency D" in said
    assert "It beats" in said or "it beats" in said
    page = (fitted / "report.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r"(src|href)\s*=\s*[\"']https?:", page)
    predicted = run("predict", f"checkpoint={fitted}", "data=newer.csv", "target=load", "coverage=[0.5,0.9]")
    frame = pd.read_csv(predicted / "forecast.csv")
    assert list(frame.columns) == ["time", "forecast", "lower_50", "upper_50", "lower_90", "upper_90"]
    assert list(frame["time"]) == list(pd.read_csv("truth.csv")["date"])
    assert ((frame["lower_90"] < frame["lower_50"]) & (frame["upper_50"] < frame["upper_90"])).all()
    assert (predicted / "report.html").exists()


def test_covariates_ahead_come_from_a_file(folder, capsys):
    fitted = run("fit", "data=my.csv", "target=load", "horizon=7", "covariates=[heat]", "compare=2", *QUICK)
    assert "1 of 1 covariates have an effect" in capsys.readouterr().out
    assert main(["forecasting", "predict", f"checkpoint={fitted}"]) == 2
    assert "give future=" in capsys.readouterr().err
    words = (f"checkpoint={fitted}", "data=newer.csv", "target=load", "future=ahead.csv")
    predicted = run("predict", *words)
    error = pd.read_csv(predicted / "forecast.csv")["forecast"] - pd.read_csv("truth.csv")["load"]
    assert np.abs(error).mean() < 1.5


SLIDING, REFITTED = ("step=8", "mode=sliding", "window=60", "refit=16"), ("step=5", "refit=20")


@pytest.mark.parametrize("words", [pytest.param((), marks=pytest.mark.slow), SLIDING, REFITTED])
def test_backtest_writes_every_forecast(folder, words):
    done = run("backtest", "data=my.csv", "target=load", "horizon=7", "compare=2", *QUICK, *words)
    frame = pd.read_csv(done / "backtest.csv")
    step = {(): 1, SLIDING: 8, REFITTED: 5}[words]
    origins = range(89, 143, step)
    assert len(frame) == 7 * len(origins)
    assert frame["truth"].notna().all()
    known = pd.read_csv("my.csv").set_index("date")["load"]
    np.testing.assert_allclose(frame["truth"], known[frame["time"]])
    assert (pd.to_datetime(frame["time"]) > pd.to_datetime(frame["origin"])).all()
    assert (done / "report.html").read_text().count("<svg") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fit", "data=no.csv", "horizon=3"), "there is no such file"),
        (("fit", "data=my.csv", "target=laod", "horizon=3"), "did you mean load?"),
        (("fit", "data=my.csv", "target=load", "horizon=0"), "from 1 on"),
        (("fit", "data=my.csv", "target=load"), "needs horizon"),
        (("fit", "data=my.csv", "target=load", "horizon=3", "rows=[ETS]"), "accepted: last value"),
        (("backtest", "data=my.csv", "target=load", "horizon=3", "mode=rolling"), "expanding, sliding"),
        (("backtest", "data=my.csv", "target=load", "horizon=3", "mode=sliding"), "sliding needs window="),
        (("backtest", "data=my.csv", "target=load", "horizon=300"), "no origin fits"),
        (("predict", "checkpoint=my.csv"), "holds no forecaster"),
        (("fit", "data=my.csv", "target=load", "horizon=3", "season=-1"), "1 is no season"),
        (("fit", "data=my.csv", "target=load", "horizon=3", "lag=0"), "lag=0: a whole number from 1 on"),
        (("fit", "data=my.csv", "target=load", "horizon=3", "lag=x", *QUICK), "lag=x: a whole number from 1 on"),
        (("fit", "data=my.csv", "target=load", "horizon=3", "seed=-4"), "seed=-4"),
        (("fit", "data=my.csv", "target=load", "horizon=3", "compare=-4"), "0 compares nothing"),
        (("fit", "data=my.csv", "target=load", "horizon=3", "logarithm=perhaps"), "true, false and auto"),
        (("fit", "data=my.csv", "target=load", "horizon=3", "frequency=quux"), "no pandas frequency"),
        (("fit", "data=noise.csv", "horizon=3"), "is no CSV file"),
        (("backtest", "data=my.csv", "target=load", "horizon=3", "step=0"), "step=0: a whole number from 1 on"),
        (("backtest", "data=my.csv", "target=load", "horizon=3", "refit=-1"), "refit=-1: a whole number from 0 on"),
        (("backtest", "data=my.csv", "target=load", "horizon=3", "compare=0"), "null compares at all origins"),
        (("backtest", "data=my.csv", "target=load", "horizon=3", "mode=sliding", "window=x"), "window=x"),
        (("evaluate", "data=my.csv", "target=load", "lag=0"), "lag=0: a whole number from 1 on"),
        (("evaluate", "data=my.csv", "target=load", "season=0"), "season=0: a whole number from 1 on"),
        (("evaluate", "data=bad.csv", "target=load", "lag=8", "horizon=3"), "line 9: load is missing or infinite"),
        (("evaluate", "experiment=none"), "etth1-96"),
        (("predict", "checkpoint=none"), "there is no such file"),
        (("fit", "data=my.csv", "target=load", "horizon=3", "device=tpu"), "accepted: auto, cpu, cuda"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(folder, capsys, words, message):
    assert main(["forecasting", *words]) == 2
    line = [text for text in capsys.readouterr().err.splitlines() if text.startswith("farfield:")]
    assert len(line) == 1
    assert message in line[0]
    assert not list(folder.glob("runs/forecasting/*/*"))


def test_the_verdict_names_what_is_beaten_and_what_is_not():
    scores = {name: Score(mase, np.nan, np.zeros(1), 5, 0.0) for name, mase in {"us": 1.0, "a": 1.2, "b": 0.9}.items()}
    assert "it beats a; it does not beat b" in verdict(scores, "us")


@pytest.mark.slow
def test_an_interrupted_backtest_goes_on_to_the_same_numbers(folder):
    command = [sys.executable, "-W", "ignore", "-m", "farfield", "forecasting", "backtest"]
    env = os.environ | {"PYTHONPATH": str(ROOT / ".typing")}
    words = ["data=my.csv", "target=load", "horizon=7", "network=false", "rows=[AutoETS]", "compare=null"]
    process = subprocess.Popen([*command, *words], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    while not (found := list(folder.glob("runs/*/*/*/rows-*.jsonl"))) or found[0].read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "continue with resume=" in said
    noted = found[0].read_text()
    subprocess.run([*command, f"resume={found[0].parent}"], cwd=folder, env=env, check=True, capture_output=True)
    assert found[0].read_text().startswith(noted)
    subprocess.run([*command, *words, "out=whole.csv"], cwd=folder, env=env, check=True, capture_output=True)
    assert (found[0].parent / "backtest.csv").read_text() == (folder / "whole.csv").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quickstart_runs_from_nothing_to_a_report(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "farfield.apps.forecasting.quickstart"]
    env = os.environ | {"PYTHONPATH": str(ROOT / ".typing")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for row in ("last value", "seasonal naive", "ridge on lags", "AutoETS", "AutoARIMA", "Theta"):
        assert row in done.stdout
    (report,) = tmp_path.glob("runs/forecasting/quickstart/*/backtest/report.html")
    assert report.read_text().count("<svg") == 3
