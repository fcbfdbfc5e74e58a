"""Ends runs before their time: python -m tests.apps.training.disturb_fit FOLDER SETTINGS_AS_JSON SIGNALS SEED.

One process imports everything and forks each run, so that an end costs no import. SIGNALS, as SIGINT,SIGKILL,...: each
run goes on from the one before. SIGKILL comes at a random moment, the others once the run has logged a step. Prints
JSON: for every signal the exit status, the last step that the metrics know, the step of the newest good checkpoint.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from farfield.apps.training import RunFolder
from farfield.apps.training.manifest import read_about
from tests.apps.training.run_fit import train

SECONDS_A_STEP = 0.004


def start(folder: Path, settings: dict[str, Any]) -> int:
    """Process id of a forked run that goes on from what is there."""
    pid = os.fork()
    if pid == 0:
        os._exit(train(str(folder), settings | {"resume": folder.exists()}, SECONDS_A_STEP))
    return pid


def end(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def logged(run: RunFolder) -> int:
    return max((line["step"] for line in run.metrics()), default=0)


def main() -> None:
    folder, settings, names = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3].split(",")
    warnings.simplefilter("ignore")
    moments = random.Random(int(sys.argv[4]))
    seen = []
    straight = end(start(folder / "straight", settings))
    run = RunFolder(folder / "disturbed")
    for name in names:
        before = logged(run)
        pid = start(run.path, settings)
        if name == "SIGKILL":
            time.sleep(moments.uniform(0.03, 0.5))
        while name != "SIGKILL" and logged(run) == before:
            time.sleep(0.005)
        os.kill(pid, signal.Signals[name])
        code = end(pid)
        last = run.last_checkpoint()
        saved = read_about(last).step if last else 0
        seen.append({"signal": name, "code": code, "logged": logged(run), "saved": saved})
    print(json.dumps({"straight": straight, "seen": seen, "last": end(start(run.path, settings))}))


if __name__ == "__main__":
    main()
