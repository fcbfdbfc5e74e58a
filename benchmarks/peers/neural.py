"""DLinear and NHITS of neuralforecast, here or in another environment whose Python is FARFIELD_PEERS_PYTHON.

As a program it reads one JSON object from standard input, {values, season, horizon, origins, seed}, and writes
{method: {forecasts, seconds}}. A network is trained once, at the first origin, and forecasts from all of them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

METHODS = ("DLinear", "NHITS")
STEPS = 300


def available() -> str | None:
    """The Python that has neuralforecast, None where there is none."""
    if importlib.util.find_spec("neuralforecast") is not None:
        return sys.executable
    named = os.environ.get("FARFIELD_PEERS_PYTHON")
    return named if named and Path(named).exists() else None


def ask(python: str, question: dict[str, Any]) -> dict[str, Any]:
    """The answer of a process of its own."""
    done = subprocess.run(
        [python, str(Path(__file__).resolve())], input=json.dumps(question), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"neuralforecast failed: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Forecasts of both networks at all origins."""
    import logging

    import pandas as pd
    from neuralforecast import NeuralForecast
    from neuralforecast.models import NHITS, DLinear

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    values, horizon, origins = question["values"], question["horizon"], question["origins"]
    size = max(2 * horizon, min(3 * question["season"], 96))
    size = min(size, origins[0] + 1 - horizon - 5)
    frame = pd.DataFrame(
        {"unique_id": "y", "ds": pd.date_range("1900-01-01", periods=len(values), freq="D"), "y": values}
    )
    found = {}
    for name, kind in zip(METHODS, (DLinear, NHITS), strict=True):
        began = time.perf_counter()
        model = kind(
            h=horizon,
            input_size=size,
            max_steps=STEPS,
            windows_batch_size=128,
            scaler_type="standard",
            random_seed=question["seed"],
            accelerator="cpu",
            enable_progress_bar=False,
            enable_checkpointing=False,
            logger=False,
            enable_model_summary=False,
        )
        fitted = NeuralForecast(models=[model], freq="D")
        fitted.fit(frame.iloc[: origins[0] + 1])
        forecasts = [
            fitted.predict(frame.iloc[: origin + 1])[name].to_numpy().astype(float).tolist() for origin in origins
        ]
        found[name] = {"forecasts": forecasts, "seconds": time.perf_counter() - began}
    return found


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.stdin.read()))))
