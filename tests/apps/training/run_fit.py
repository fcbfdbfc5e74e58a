"""Runs fit in a process of its own: python -m tests.apps.training.run_fit FOLDER SETTINGS_AS_JSON [SECONDS_A_STEP]."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from farfield.apps.training import Interrupted, TrainerConfig, UserError, fit
from tests.apps.training.parts import Data, Model, fresh_model


class Slow(Model):
    """Takes its time, so that a signal meets it at work."""

    seconds = 0.0

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        time.sleep(self.seconds)


def train(folder: str, settings: dict[str, Any], seconds: float = 0.0) -> int:
    """Exit code of a run, its messages on standard error."""
    Slow.seconds = seconds
    model = fresh_model(Slow, poison_at=settings.pop("poison_at", -1), max_steps=settings["max_steps"])
    try:
        fit(model, Data(), TrainerConfig(run_folder=folder, **settings))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    print("returned", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(train(sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0))
