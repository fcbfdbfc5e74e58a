"""Checkpoints are verified before they are believed."""

import json

import pytest
import torch
from safetensors.torch import load_file

from farfield.apps.training import RunFolder
from farfield.apps.training.checkpoint import read_checkpoint, read_weights, write_checkpoint
from farfield.apps.training.keeper import prune
from farfield.apps.training.manifest import CorruptCheckpoint, folder_name, verify
from tests.apps.training.parts import fresh_model


def sample(step=7, value=None):
    model = fresh_model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 8)).sum().backward()
    optimizer.step()
    return {
        "global_step": step,
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "farfield_about": {"step": step, "monitor": "val/loss", "value": value},
    }


def written(path, **kwargs):
    write_checkpoint(path, sample(**kwargs))
    return path


def test_what_was_written_is_read(tmp_path):
    before = sample()
    write_checkpoint(tmp_path / "c", before)
    after = read_checkpoint(tmp_path / "c")
    assert before["state_dict"].keys() == after["state_dict"].keys()
    assert all(torch.equal(value, after["state_dict"][key]) for key, value in before["state_dict"].items())
    old, new = before["optimizer_states"][0], after["optimizer_states"][0]
    assert new["param_groups"] == old["param_groups"]
    assert new["state"].keys() == old["state"].keys() == {0, 1, 2, 3, 4}
    assert all(torch.equal(value, new["state"][i][k]) for i, part in old["state"].items() for k, value in part.items())


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    write_checkpoint(tmp_path / "c", sample())
    stored = load_file(tmp_path / "c" / "model.safetensors")
    assert ("second.weight" in stored) != ("tied.weight" in stored)
    weights = read_weights(tmp_path / "c")
    assert weights["second.weight"] is weights["tied.weight"]
    fresh_model().load_state_dict(weights)


def test_slices_of_one_storage_and_other_odd_weights_are_kept(tmp_path):
    fused = torch.randn(6, 4)
    odd = {"a": fused[:3], "b": fused[3:], "t": fused.t(), "scalar": torch.tensor(2.0), "empty": torch.zeros(0, 3)}
    write_checkpoint(tmp_path / "c", {"global_step": 1, "state_dict": odd | {"_extra_state": {"version": 3}}})
    back = read_checkpoint(tmp_path / "c")["state_dict"]
    assert back.pop("_extra_state") == {"version": 3}
    assert all(torch.equal(odd[key], back[key]) for key in odd)


def test_a_value_that_cannot_be_written_leaves_no_folder(tmp_path):
    with pytest.raises(TypeError, match=r"checkpoint\['callbacks'\]\['mine'\] is a builtins.object"):
        write_checkpoint(tmp_path / "c", sample() | {"callbacks": {"mine": object()}})
    assert list(tmp_path.iterdir()) == []


FILES = ["model.safetensors", "state.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "remove"])
def test_harm_to_any_file_is_found_and_named(tmp_path, name, harm):
    folder = written(tmp_path / "step-00000007")
    path = folder / name
    raw = bytearray(path.read_bytes())
    if harm == "flip":
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    elif harm == "remove":
        path.unlink()
    else:
        path.write_bytes(raw[: len(raw) // 2 if harm == "cut" else 0])
    with pytest.raises(CorruptCheckpoint, match=f"step-00000007 is .*{name}"):
        read_checkpoint(folder)


def test_a_newer_format_is_refused_by_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr("farfield.apps.training.manifest.VERSION", 2)
    folder = written(tmp_path / "c")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"format version 2.*upgrade"):
        verify(folder)


def test_the_newest_that_verifies_is_the_last(tmp_path):
    run = RunFolder(tmp_path)
    assert run.last_checkpoint() is None
    folders = [written(run.checkpoints / folder_name(step), step=step) for step in (5, 10, 15)]
    (folders[2] / "state.json").write_text("{}")
    (run.checkpoints / ".tmp-step-00000020-x").mkdir()
    with pytest.warns(UserWarning, match="step-00000015 is damaged: state.json .*passed over"):
        assert run.last_checkpoint() == folders[1]


def test_the_best_is_by_value_and_survives_pruning(tmp_path):
    run = RunFolder(tmp_path)
    for step, value in ((1, 3.0), (2, 1.0), (3, None), (4, 2.0), (5, 4.0), (6, 1.0)):
        written(run.checkpoints / folder_name(step), step=step, value=value)
    assert run.best_checkpoint().name == "step-00000002"
    prune(run.checkpoints, keep_last=2)
    assert sorted(f.name for f in run.checkpoints.iterdir()) == [folder_name(s) for s in (2, 5, 6)]
    (run.checkpoints / folder_name(2) / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="passed over"):
        assert run.best_checkpoint().name == "step-00000006"


def test_the_state_is_json_that_any_reader_takes(tmp_path):
    folder = written(tmp_path / "c")
    json.loads((folder / "state.json").read_text(), parse_constant=lambda word: pytest.fail(word))
