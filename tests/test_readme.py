"""The commands and programs of the README work as they stand there."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from farfield.apps.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.S)
    for line in block.splitlines()
    if line.startswith("farfield ")
]
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a FASTA file of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARFIELD_CACHE", str(tmp_path / "cache"))
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 12_000))
    (tmp_path / "my.fa").write_text(f">one\n{bases[:9000]}\n>two\n{bases[9000:]}\n")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/wind.txt").write_text("The solar wind blows outwards, away from the sun.")
    return tmp_path


def test_there_is_something_to_test():
    assert len(COMMANDS) >= 4
    assert len(PROGRAMS) >= 1


@pytest.mark.parametrize("command", [c for c in COMMANDS if "<time>" not in c])
def test_commands_compose(command, folder, capsys):
    assert main([*shlex.split(command)[1:], "--cfg", "job"]) == 0
    printed = capsys.readouterr().out
    groups = ("equation", "model")
    for key, value in (word.split("=") for word in shlex.split(command)[3:] if not word.startswith(groups)):
        assert re.search(rf"^ *{key}: '?{re.escape(value)}'?$", printed, flags=re.M)


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run(program):
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env={"PYTHONPATH": ".typing"}, check=True)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_no_placeholder_is_left():
    assert not re.findall(r"\b[A-Z0-9]+_(?:TABLE|BITS|MINUTES)\b", README)


def served(words):
    """A service starts, answers, and ends when it is interrupted."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    env = os.environ | {"PYTHONPATH": str(ROOT / ".typing")}
    process = subprocess.Popen([sys.executable, "-m", "farfield", *words, f"port={port}"], env=env)
    try:
        for _ in range(120):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                assert answer.status == 200
                break
            assert process.poll() is None
            time.sleep(0.5)
        else:
            pytest.fail("the service never answered")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_commands_run_one_after_the_other(folder):
    """Every verb of the README on one's own file; what stands for a run folder is filled in."""
    short = {
        "pretrain": ["trainer.max_steps=4", "trainer.val_every=2", "data.batch=2", "data.seqlen=512"],
        "simulate": ["equation.cells=[16,16]", "equation.frames=21"],
        "train": ["budget=10s"],
    }
    for command in COMMANDS:
        for place in re.findall(r"(runs/\S+)/<time>", command):
            command = command.replace(f"{place}/<time>", str(max((folder / place).glob("*"))))
        words = shlex.split(command)[1:]
        extra = [] if "resume" in command else short.get(words[1], [])
        if words[1] == "serve":
            served(words)
        else:
            assert main([*words, *extra]) == 0, command
    assert (folder / "scores.tsv").read_text().count("\n") == 3
