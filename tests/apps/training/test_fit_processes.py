"""fit in processes of its own: signals, kill -9, several devices."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farfield.apps.training import RunFolder

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {
    "max_steps": 30,
    "val_every": 5,
    "checkpoint_every": 4,
    "monitor": "val/loss",
    "accumulate": 2,
    "log_every": 1,
    "progress": False,
    "device": "cpu",
}


def numbers(path):
    clocks = {"time", "steps/s", "units/s"}
    return [{k: v for k, v in line.items() if k not in clocks} for line in RunFolder(path).metrics()]


def start(name, *words, cwd):
    environment = os.environ | {"PYTHONPATH": f"{ROOT / '.typing'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", f"tests.apps.training.{name}", *map(str, words)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process, seconds=120):
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the run hangs; it said: {out} {err}")
    return process.returncode, out, err


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def at_work(path, step=3):
    return lambda: any(line["step"] >= step for line in RunFolder(path).metrics())


def disturb(tmp_path, signals, seed, max_steps):
    """Runs that the signals end, each resumed by the next, end as a run that nothing disturbed."""
    home = tmp_path / "home"
    home.mkdir()
    settings = SETTINGS | {"max_steps": max_steps, "accumulate": 1, "checkpoint_every": 3}
    process = start("disturb_fit", tmp_path, json.dumps(settings), ",".join(signals), seed, cwd=home)
    code, out, err = finish(process, 120 + 5 * len(signals))
    assert code == 0, err
    told = json.loads(out.splitlines()[-1])
    assert (told["straight"], told["last"]) == (0, 0)
    for seen in told["seen"]:
        # A line of metrics is written when the next step begins: one more step may have been at work.
        assert seen["logged"] - seen["saved"] <= 3
    assert numbers(tmp_path / "disturbed") == numbers(tmp_path / "straight")
    assert [line["step"] for line in numbers(tmp_path / "disturbed")] == list(range(1, max_steps + 1))
    assert not list(tmp_path.rglob(".tmp-*"))
    assert {entry.name for entry in tmp_path.iterdir()} == {"disturbed", "straight", "home"}
    assert list(home.iterdir()) == []
    return told["seen"], err


def test_signals_and_kill_9_lose_nothing(tmp_path):
    seen, err = disturb(tmp_path, ["SIGINT", "SIGTERM"] + ["SIGKILL"] * 4, seed=1, max_steps=100)
    assert [end["code"] for end in seen] == [130, 143, -9, -9, -9, -9]
    for end in seen:
        if end["code"] > 0:
            assert end["logged"] == end["saved"]
            assert f"interrupted by {end['signal']} after step {end['saved']}; continue with resume={tmp_path}" in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_many_kills_lose_at_most_one_interval(tmp_path, seed):
    seen, _ = disturb(tmp_path, ["SIGKILL"] * 25, seed, max_steps=600)
    assert len({end["saved"] for end in seen}) > 5


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    process = start("run_fit", tmp_path / "a", json.dumps(SETTINGS | {"accumulate": 1}), 1.5, cwd=tmp_path)
    wait_for(lambda: (tmp_path / "a" / "checkpoints" / "step-00000004").exists())
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert "continue with resume=" in err
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_two_processes_train_as_one_run(tmp_path):
    settings = SETTINGS | {"devices": 2}
    for name in ("straight", "cut", "nan"):
        (tmp_path / name).mkdir()
    straight = start("run_fit", tmp_path / "straight" / "run", json.dumps(settings), cwd=tmp_path / "straight")
    code, out, err = finish(straight)
    assert code == 0, err
    # The other process ends inside fit: what comes after it happens once.
    assert out.count("returned") == 1
    cut = start("run_fit", tmp_path / "cut" / "run", json.dumps(settings), 0.1, cwd=tmp_path / "cut")
    wait_for(at_work(tmp_path / "cut" / "run"))
    cut.send_signal(signal.SIGTERM)
    assert finish(cut)[0] == 143
    resumed = start("run_fit", tmp_path / "cut" / "run", json.dumps(settings | {"resume": True}), cwd=tmp_path / "cut")
    assert finish(resumed)[0] == 0
    assert numbers(tmp_path / "cut" / "run") == numbers(tmp_path / "straight" / "run")
    bad = start("run_fit", tmp_path / "nan" / "run", json.dumps(settings | {"poison_at": 20}), cwd=tmp_path / "nan")
    code, _, err = finish(bad)
    assert code == 2
    assert err.count("became nan at step 11") == 1
    for name in ("straight", "cut", "nan"):
        assert [entry.name for entry in (tmp_path / name).iterdir()] == ["run"]
