"""A run's folder: names, config, environment, metrics."""

import json
import math
import os

import pytest
from omegaconf import OmegaConf

from farfield.apps.training import RunFolder, UserError
from farfield.apps.training.metrics import MetricsLog, read_metrics


def test_runs_within_a_second_have_folders_of_their_own(tmp_path):
    runs = [RunFolder.create("genomics", "score", {"seed": 3}, root=tmp_path) for _ in range(5)]
    assert len({run.path for run in runs}) == 5
    assert all(run.path.parent == tmp_path / "genomics" / "score" for run in runs)


def test_config_and_environment_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FARFIELD_COMMIT", "abc123")
    config = OmegaConf.create({"seed": 5, "data": {"fasta": "é.fa", "n": [1, 2.5, None]}, "twice": "${seed}"})
    run = RunFolder.create("genomics", "pretrain", config, root=tmp_path)
    plain = {"seed": 5, "data": {"fasta": "é.fa", "n": [1, 2.5, None]}, "twice": 5}
    assert RunFolder.open(run.path).config() == plain
    environment = run.environment()
    assert environment["commit"] == "abc123"
    assert environment["seed"] == 5
    assert environment["torch"].startswith("2.")


def test_what_changed_in_a_later_session_is_added(tmp_path, monkeypatch):
    run = RunFolder.create("genomics", "pretrain", {"seed": 5}, root=tmp_path)
    monkeypatch.setenv("FARFIELD_COMMIT", "later")
    run.write_environment(device="cpu")
    assert run.environment()["device"] == "cpu"
    assert run.environment()["sessions"][0]["commit"] == "later"


def test_other_processes_of_a_run_find_the_first_ones_folder(tmp_path, monkeypatch):
    run = RunFolder.create("genomics", "pretrain", {}, root=tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "1")
    other = RunFolder.create("genomics", "pretrain", {}, root=tmp_path)
    assert other.path == run.path
    assert len(list(run.path.parent.iterdir())) == 1


def test_what_is_no_run_folder_is_refused(tmp_path):
    run = RunFolder.create("genomics", "pretrain", {}, root=tmp_path)
    with pytest.raises(UserError, match=f"is no run folder.*near it: {run.path}"):
        RunFolder.open(run.path.parent)
    with pytest.raises(UserError, match="is no run folder"):
        RunFolder.open(tmp_path / "nowhere" / "at" / "all")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_root_that_cannot_be_written_is_the_users_mistake(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="no run folder can be made"):
        RunFolder.create("genomics", "score", {}, root=tmp_path)


def test_a_root_that_is_a_file_is_the_users_mistake(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="no run folder can be made"):
        RunFolder.create("genomics", "score", {}, root=tmp_path / "runs")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [1\n"])
def test_a_broken_config_is_the_users_mistake(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        RunFolder.open(tmp_path).config()


def lines(path):
    return [{key: value for key, value in line.items() if key != "time"} for line in read_metrics(path)]


def test_metrics_of_a_step_share_a_line_even_after_a_flush(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.log(1, {"a": 1})
    log.flush()
    log.log(2, {"a": 2.123456789})
    log.flush()
    log.log(2, {"b": math.nan, "c": math.inf})
    log.log(2, {"a": 2, "b": -math.inf})
    log.log(3, {"a": 3})
    log.close()
    assert len(path.read_text().splitlines()) == 3
    assert lines(path) == [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0, "b": None, "c": None}, {"step": 3, "a": 3.0}]


def test_a_torn_line_and_later_steps_are_dropped_at_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = "".join(json.dumps({"step": step, "time": 0, "a": step}) + "\n" for step in range(1, 6))
    for cut in range(len(whole)):
        path.write_text(whole[:cut])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *args, **kwargs: None)
            before = lines(path)
        log = MetricsLog(path, last_step=3)
        log.log(4, {"a": -4})
        log.close()
        assert lines(path) == [line for line in before if line["step"] <= 3] + [{"step": 4, "a": -4.0}]


def test_a_torn_line_is_named_when_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "time": 0, "a": 1}\n{"step": 2, "ti')
    with pytest.warns(UserWarning, match="line 2 is torn"):
        assert len(read_metrics(path)) == 1
