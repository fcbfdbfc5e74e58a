"""fit: the same seed gives the same numbers, interrupted or not; what goes wrong is said and loses nothing."""

import os
import random
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from farfield.apps.training import Interrupted, RunFolder, TrainerConfig, UserError, fit
from farfield.apps.training.checkpoint import read_weights
from farfield.apps.training.progress import ProgressBar
from tests.apps.training.parts import Data, Model, PlacedData, fresh_model

SETTINGS = {
    "max_steps": 30,
    "val_every": 5,
    "checkpoint_every": 4,
    "monitor": "val/loss",
    "accumulate": 2,
    "log_every": 3,
    "gradient_clip": 1.0,
    "progress": False,
    "device": "cpu",
}
ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT / '.typing'}{os.pathsep}{ROOT}"}
CLOCKS = {"time", "steps/s", "units/s"}


def numbers(folder):
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in folder.metrics()]


def run(path, data=Data, cls=Model, model=None, **changes):
    settings = SETTINGS | changes
    module = fresh_model(cls, **{"max_steps": 30} | (model or {}))
    return fit(module, data(), TrainerConfig(run_folder=path, **settings)), module


def stopping_at(step):
    class Stopped(Model):
        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            if self.trainer.global_step == step - 1:
                os.kill(os.getpid(), signal.SIGINT)

    return Stopped


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, in a current folder that must stay empty."""
    here = tmp_path_factory.mktemp("cwd")
    before = os.getcwd()
    os.chdir(here)
    try:
        folder, module = run(tmp_path_factory.mktemp("whole") / "run")
    finally:
        os.chdir(before)
    return folder, module, here


def test_it_writes_into_the_run_folder_only_and_never_pickles(whole):
    folder, _, here = whole
    assert list(here.iterdir()) == []
    assert {entry.name for entry in folder.path.iterdir()} == {
        "checkpoints",
        "environment.json",
        "metrics.jsonl",
        "tensorboard",
    }
    files = [entry for entry in folder.path.rglob("*") if entry.is_file() and "tfevents" not in entry.name]
    assert {entry.suffix for entry in files} == {".safetensors", ".json", ".jsonl"}
    for entry in files:
        # A pickle starts with PROTO, or is a zip.
        assert entry.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")


def test_metrics_count_steps_once_and_hold_what_was_logged(whole):
    lines = whole[0].metrics()
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert {"train/loss", "lr", "train/noise", "units/s"} <= lines[1].keys()
    assert [line["step"] for line in lines if "val/loss" in line] == [5, 10, 15, 20, 25, 30]
    assert [line["step"] for line in lines if "train/noise" in line] == list(range(3, 31, 3))
    assert lines[-1]["train/loss"] > 0
    assert lines[1]["lr"] == pytest.approx(1e-6 + (0.02 - 1e-6) * 2 / 3)


def test_tensorboard_holds_the_same_numbers(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole[0].tensorboard))
    events.Reload()
    found = {(event.step, event.value) for event in events.Scalars("train/loss")}
    assert found == {(line["step"], line["train/loss"]) for line in whole[0].metrics() if "train/loss" in line}


def test_the_best_and_the_newest_checkpoints_are_kept(whole):
    folder, module, _ = whole
    values = {line["step"]: line["val/loss"] for line in folder.metrics() if "val/loss" in line}
    best = min(values, key=values.get)
    assert folder.best_checkpoint().name == f"step-{best:08d}"
    assert {entry.name for entry in folder.checkpoints.iterdir()} == {f"step-{s:08d}" for s in (28, 30, best)}
    weights = read_weights(folder.last_checkpoint())
    assert all(torch.equal(value, weights[key]) for key, value in module.state_dict().items())


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(whole, tmp_path):
    again, _ = run(tmp_path / "again", data=PlacedData)
    assert numbers(again) == numbers(whole[0])
    other, _ = run(tmp_path / "other", seed=1)
    assert numbers(other) != numbers(whole[0])


# 7: between events; 15: with a validation and a line of metrics; 24: with a checkpoint; 25: with a validation.
@pytest.mark.parametrize(("step", "data"), [(7, Data), (15, PlacedData), (24, Data), (25, PlacedData)])
def test_resumed_equals_uninterrupted(whole, tmp_path, step, data):
    with pytest.raises(Interrupted, match=rf"SIGINT after step {step}; continue with resume=.*run") as stop:
        run(tmp_path / "run", data=data, cls=stopping_at(step))
    assert stop.value.exit_code == 130
    # What the process did in between must not matter.
    for disturb in (random.seed, np.random.seed, torch.manual_seed):
        disturb(12345)
    resumed, module = run(tmp_path / "run", data=data, resume=True)
    assert numbers(resumed) == numbers(whole[0])
    assert module.batches == list(range(2 * step, 60))
    for key, value in whole[1].state_dict().items():
        assert torch.equal(value, module.state_dict()[key])


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_early_stopping_and_schedulers_resume(tmp_path, schedule):
    model = {"schedule": schedule, "lr": 0.2}
    settings = {"patience": 2, "max_steps": 60, "model": model}
    straight, _ = run(tmp_path / "a", **settings)
    last = numbers(straight)[-1]["step"]
    assert last < 60
    for step in (5, 6, 10):
        with pytest.raises(Interrupted):
            run(tmp_path / f"b{step}", cls=stopping_at(step), **settings)
        resumed, _ = run(tmp_path / f"b{step}", resume=True, **settings)
        assert numbers(resumed) == numbers(straight)
    again, module = run(tmp_path / "a", resume=True, **settings)
    assert module.batches == []
    assert numbers(again) == numbers(straight)


def test_a_finished_run_has_nothing_left_and_more_steps_go_on(whole, tmp_path, capsys):
    run(tmp_path / "a", max_steps=10)
    run(tmp_path / "a", max_steps=10, resume=True)
    assert "nothing left to train: step 10 of 10" in capsys.readouterr().err
    longer, _ = run(tmp_path / "a", max_steps=30, resume=True)
    assert [line for line in numbers(longer) if line["step"] != 10] == [
        line for line in numbers(whole[0]) if line["step"] != 10
    ]


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(whole, tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path / "a", cls=stopping_at(14))
    folder = RunFolder(tmp_path / "a")
    assert folder.last_checkpoint().name == "step-00000014"
    weights = folder.checkpoints / "step-00000014" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (folder.checkpoints / ".tmp-step-00000016-half").mkdir()
    with pytest.warns(UserWarning, match="step-00000014 is damaged"):
        resumed, module = run(tmp_path / "a", resume=True)
    assert module.batches[0] == 2 * 12
    assert numbers(resumed) == numbers(whole[0])
    names = {entry.name for entry in folder.checkpoints.iterdir()}
    assert not any(name.startswith(".tmp-") for name in names)
    assert any(name.startswith("damaged-step-00000014-") for name in names)


def test_when_all_checkpoints_are_damaged_the_run_says_so(tmp_path):
    run(tmp_path / "a", max_steps=4, monitor=None)
    (tmp_path / "a" / "checkpoints" / "step-00000004" / "state.json").unlink()
    whole = pytest.raises(UserError, match=r"no checkpoint in .* is whole \(step-00000004 damaged\)")
    with pytest.warns(UserWarning, match=r"state\.json is missing"), whole:
        run(tmp_path / "a", max_steps=4, resume=True)


def test_a_folder_with_a_run_is_not_overwritten(whole):
    with pytest.raises(UserError, match="already holds a run, up to step-00000030"):
        run(whole[0].path)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    path = tmp_path / "a"
    held = (
        "import sys, time\nfrom farfield.apps.training import RunFolder\n"
        "with RunFolder(sys.argv[1]).alone():\n    print(1, flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", held, str(path)], stdout=subprocess.PIPE, env=ENVIRONMENT) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match=f"another process is training in {path}"), RunFolder(path).alone(0.0):
            pass
        other.kill()
    folder, _ = run(path, max_steps=3)
    assert folder.last_checkpoint() is not None


def test_a_run_without_a_checkpoint_starts_over(tmp_path):
    RunFolder(tmp_path).metrics_file.write_text('{"step": 3, "time": 0, "train/loss": 9}\n{"ste')
    with pytest.warns(UserWarning, match="holds no checkpoint yet: the run starts at step 0"):
        folder, _ = run(tmp_path, resume=True, max_steps=5)
    assert [line["step"] for line in folder.metrics()] == [1, 3, 5]


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"became nan at step 11; .* kept: .*step-00000010\. Try a lower learning rate"):
        run(tmp_path / "a", model={"poison_at": 21})
    folder = RunFolder(tmp_path / "a")
    assert folder.last_checkpoint().name == "step-00000010"
    assert all(torch.isfinite(value).all() for value in read_weights(folder.last_checkpoint()).values())
    assert max(line["step"] for line in folder.metrics()) <= 10


def test_weights_that_became_nan_are_not_saved(tmp_path):
    class Broken(Model):
        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            if self.trainer.global_step == 7:
                self.last.bias.data.fill_(float("inf"))

    with pytest.raises(UserError, match=r"weights became infinite or NaN at or before step 8; .*step-00000005"):
        run(tmp_path / "a", cls=Broken)


def test_a_spent_budget_ends_the_run_resumable(whole, tmp_path, capsys):
    _, module = run(tmp_path / "a", budget=1e-6)
    assert len(module.batches) == 2
    assert "budget of 1e-06 spent at step 1 of 30; continue with resume=" in capsys.readouterr().err
    resumed, _ = run(tmp_path / "a", resume=True, budget="10m")
    assert numbers(resumed) == numbers(whole[0])


def test_data_that_end_are_started_over(tmp_path):
    class Short(Data):
        def __init__(self):
            super().__init__(length=7)

    class Empty(Data):
        def __init__(self):
            super().__init__(length=0)

    straight, _ = run(tmp_path / "a", data=Short)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", data=Short, cls=stopping_at(13))
    resumed, _ = run(tmp_path / "b", data=Short, resume=True)
    assert numbers(resumed) == numbers(straight)
    with pytest.raises(UserError, match="training data has no batch"):
        run(tmp_path / "c", data=Empty)


def test_workers_may_fetch_the_data(whole, tmp_path):
    class Worked(PlacedData):
        def train_dataloader(self):
            class Stream(torch.utils.data.IterableDataset):
                def __iter__(stream):
                    return self._train()

            return torch.utils.data.DataLoader(Stream(), batch_size=None, num_workers=1)

    with pytest.raises(Interrupted):
        run(tmp_path / "a", data=Worked, cls=stopping_at(9))
    resumed, _ = run(tmp_path / "a", data=Worked, resume=True)
    assert numbers(resumed) == numbers(whole[0])


def test_a_metric_that_nobody_logged_is_named(tmp_path):
    with pytest.raises(UserError, match=r"monitor=val/acc was not logged by the validation; logged: .*val/loss"):
        run(tmp_path / "a", monitor="val/acc")


def test_bf16_trains_and_more_gpus_than_there_are_is_a_mistake(tmp_path, monkeypatch):
    folder, _ = run(tmp_path / "a", precision="bf16", max_steps=3)
    assert folder.metrics()[-1]["train/loss"] > 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="devices=2, but this machine has 1 GPUs"):
        run(tmp_path / "b", devices=2, device="cuda")


def test_global_settings_are_put_back(whole):
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_lightning_keeps_quiet_and_other_warnings_pass(tmp_path, capfd, recwarn):
    class Warned(Model):
        def on_train_start(self):
            import warnings

            warnings.warn("something of the user's own", stacklevel=1)

    run(tmp_path / "a", cls=Warned, max_steps=5)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
    assert [str(w.message) for w in recwarn if "pkg_resources" not in str(w.message)] == ["something of the user's own"]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_steps_loss_and_time_left(monkeypatch, terminal):
    class Trainer:
        is_global_zero = True
        global_step = 1

    monkeypatch.setattr("farfield.apps.training.progress.SECONDS_BETWEEN_LINES", -1.0)
    screen, shown, trainer = StringIO(), {"loss": 1.25, "tokens/s": 123456.0}, Trainer()
    bar = ProgressBar(50, shown, Console(file=screen, force_terminal=terminal, width=150))
    bar.on_train_start(trainer, None)
    for trainer.global_step in range(2, 21):
        bar.on_train_batch_end(trainer, None)
    bar.on_validation_start(trainer, None)
    bar.on_validation_end(trainer, None)
    bar.on_train_end(trainer, None)
    text = screen.getvalue()
    assert "20/50" in text
    assert "loss 1.25" in text
    assert "tokens/s 1.235e+05" in text
    assert "0:00:0" in text
