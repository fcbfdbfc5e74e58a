"""What is written is there whole or not at all."""

import os
import stat

import pytest

from farfield.apps.training.atomic import atomic_file, atomic_folder, atomic_write, remove_leftovers


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    atomic_write(path, "one")
    atomic_write(path, "zwei ü".encode())
    assert path.read_text(encoding="utf-8") == "zwei ü"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    atomic_write(path, "old")
    with pytest.raises(TypeError), atomic_file(path) as temporary:
        temporary.write_text(b"half")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_results_have_ordinary_permissions(tmp_path):
    old = os.umask(0o022)
    try:
        atomic_write(tmp_path / "a", "x")
        with atomic_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o755


def test_a_folder_appears_whole_and_replaces_an_old_one(tmp_path):
    for word in ("one", "two"):
        with atomic_folder(tmp_path / "f") as temporary:
            (temporary / word).write_text(word)
            assert not (tmp_path / "f" / "two").exists()
    assert [entry.name for entry in (tmp_path / "f").iterdir()] == ["two"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(TypeError), atomic_folder(tmp_path / "f") as temporary:
        (temporary / "x").write_text(b"half")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    half = tmp_path / "checkpoints" / ".tmp-step-00000001-abc"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".tmp-config.yaml-x").write_text("half")
    (tmp_path / "config.yaml").write_text("whole")
    assert len(remove_leftovers(tmp_path)) == 2
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["checkpoints", "config.yaml"]
