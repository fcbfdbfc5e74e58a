"""`./run quickstart -- forecasting`: a real series, from a CSV file to forecasts and a report, on any machine."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stdout
from pathlib import Path

from farfield.apps.cli.compose import Settings, composed
from farfield.apps.forecasting.backtest import OURS, backtest
from farfield.apps.forecasting.fit import fit
from farfield.apps.forecasting.predict import predict
from farfield.apps.forecasting.settings import SCORE_HEAD, score_rows, verdict
from farfield.apps.training import RunFolder
from farfield.apps.training.report import print_table

HORIZON = 12


def main() -> None:
    """Fit, predict, backtest, report."""
    started = time.monotonic()
    run = RunFolder.create("forecasting", "quickstart")
    print("Airline passengers, 144 months (Box and Jenkins, bundled with sktime), forecast a year ahead.\n")
    print("1/3  A forecaster of the whole series.")
    with redirect_stdout(io.StringIO()):
        path = fit(run_folder=_folder(run, "fit"), **_settings("fit", f"horizon={HORIZON}", "compare=0"))
    print(f"     {path}\n\n2/3  The next twelve months, with intervals.")
    predict(run_folder=_folder(run, "predict"), **composed("forecasting", "predict", [f"checkpoint={path}"]))
    print("\n3/3  What that is worth: forecasts from past months, beside simple methods fitted anew at each of 20.")
    words = ("first=0.6", "compare=20")
    with redirect_stdout(io.StringIO()):
        scores = backtest(run_folder=_folder(run, "backtest"), **_settings("backtest", f"horizon={HORIZON}", *words))
    print_table(SCORE_HEAD, score_rows(scores))
    print(verdict(scores, OURS))
    print("One series says little about the next: farfield forecasting backtest data=my.csv says it about yours.")
    print(f"\nReport: {run.path / 'backtest' / 'report.html'}")
    print(f"The whole quickstart took {(time.monotonic() - started) / 60:.1f} minutes.")


def _settings(verb: str, *words: str) -> Settings:
    return composed("forecasting", verb, ["data=airline", *words])


def _folder(run: RunFolder, name: str) -> Path:
    folder = run.path / name
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
