"""Runs command lines and ends them before their time: python -m tests.apps.genomics.disturb_verb RUNS_AS_JSON.

One process imports everything and forks each run, so that an end costs no import. A run is {"words": [...], "signal":
"SIGKILL", "lines": n, "seconds": s}: the signal comes s seconds after its run folder got n lines in *.jsonl; without
"signal" the run ends by itself. "RUN" in a word stands for the newest run folder. Prints JSON:
for every run its exit status, what it said, its folder, the last step that its metrics know and that its newest good
checkpoint holds, and the files that lay beside runs/ when it had ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

# Everything that a run imports is imported before the first fork.
from farfield.apps.cli import main
from farfield.apps.genomics import evaluate, pretrain, score  # noqa: F401
from farfield.apps.training import RunFolder, fit  # noqa: F401
from farfield.apps.training.manifest import read_about


def newest() -> Path | None:
    return max(Path.cwd().glob("runs/*/*/*"), key=lambda path: path.stat().st_ctime_ns, default=None)


def lines(before: Path | None) -> int:
    run = newest() if before is None else before
    return 0 if run is None else sum(path.read_bytes().count(b"\n") for path in run.glob("*.jsonl"))


def start(words: list[str]) -> int:
    """Process id of a forked run, which writes to the files out and err."""
    pid = os.fork()
    if pid == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        try:
            code = main(["genomics", *words])
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return pid


def run(words: list[str], name: str | None = None, lines_: int = 1, seconds: float = 0.0) -> dict[str, Any]:
    known = newest()
    resumes = any("RUN" in word for word in words)
    at_start = lines(known) if resumes else 0
    pid = start([word.replace("RUN", str(known)) for word in words])
    while name is not None:
        now = newest()
        if (resumes or now != known) and lines(now) >= at_start + lines_:
            time.sleep(seconds)
            os.kill(pid, signal.Signals[name])
            break
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            raise SystemExit(f"{words} ended before {name}: {Path('err').read_text()}")
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    ended = newest()
    assert ended is not None
    last = RunFolder(ended).last_checkpoint()
    return {
        "code": code,
        "saved": read_about(last).step if last else 0,
        "logged": max((line["step"] for line in RunFolder(ended).metrics()), default=0),
        "out": Path("out").read_text(),
        "err": Path("err").read_text(),
        "run": str(ended),
        "files": os.listdir(),
    }


if __name__ == "__main__":
    # Whoever runs this in the background had Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A killed run tears its last line of metrics: that is no news here.
    warnings.simplefilter("ignore")
    runs = json.loads(sys.argv[1])
    ends = [run(r["words"], r.get("signal"), r.get("lines", 1), r.get("seconds", 0.0)) for r in runs]
    print(json.dumps(ends))
