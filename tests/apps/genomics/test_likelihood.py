"""Nats of windows do not depend on what else is read; progress, models by name, notes."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from rich import console as rich_console

from farfield.apps.genomics import likelihood
from farfield.apps.genomics.checkpoint import save
from farfield.apps.genomics.datamodule import Ids
from farfield.apps.genomics.likelihood import (
    PACKAGED,
    Notes,
    Passes,
    Window,
    load_model,
    progress_bar,
    result_path,
    weights_digest,
)  # fmt: skip
from farfield.apps.genomics.tokenizer import Tokenizer
from farfield.apps.training import Interrupted, UserError
from tests.apps.genomics.small import random_bases, tiny_model


def windows(*lengths: int) -> tuple[list[Window], list[Ids]]:
    sequences = [Tokenizer().encode(random_bases(n, n)) for n in lengths]
    return [Window(i, len(ids), ids.copy) for i, ids in enumerate(sequences)], sequences


def test_padding_on_the_right_changes_nothing() -> None:
    model = tiny_model()
    together, sequences = windows(5, 130, 40, 2, 77)
    passes = Passes(together, model, "fp32", None)
    assert len(passes.all) == 1
    for (key, targets, nats), ids in zip(passes.nats("read", ()), sequences, strict=True):
        assert np.array_equal(targets, ids[1:])
        (_, _, alone) = next(Passes([together[key]], model, "fp32", None).nats("read", ()))
        with torch.no_grad():
            logp = model(torch.from_numpy(ids[None].astype(np.int64)))[0].log_softmax(-1).numpy()
        direct = -logp[np.arange(len(ids) - 1), ids[1:]]
        assert nats.shape == alone.shape == direct.shape
        np.testing.assert_allclose(nats, alone, rtol=0, atol=2e-5)
        np.testing.assert_allclose(nats, direct, rtol=0, atol=2e-5)


def test_float64_models_keep_their_digits() -> None:
    given, _ = windows(100)
    model = tiny_model()
    (single,), (double,) = (
        [nats for *_, nats in Passes(given, m, "fp32", None).nats("read", ())] for m in (model, tiny_model().double())
    )
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    assert 0 < np.abs(single - double).max() < 1e-4


def test_a_pass_is_the_same_whatever_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(likelihood.PASS_TOKENS, "cpu", 200)
    given, _ = windows(*range(20, 60))
    given = [Window(i // 3, w.tokens, w.read) for i, w in enumerate(given)]
    passes = Passes(given, tiny_model(), "fp32", None)
    assert len(passes.all) > 8
    whole = list(passes.nats("read", ()))
    for done in (range(1), range(7), {0, 3, 4}):
        rest = [part for part in passes.nats("read", done) if part[0] not in done]
        expected = [part for part in whole if part[0] not in done]
        assert [key for key, *_ in rest] == [key for key, *_ in expected]
        assert all(np.array_equal(a[2], b[2]) for a, b in zip(rest, expected, strict=True))
    assert list(passes.nats("read", range(14))) == []


def test_long_windows_go_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(likelihood.PASS_TOKENS, "cpu", 100)
    passes = Passes(windows(30, 40, 20, 20, 130, 9)[0], tiny_model(), "fp32", None)
    assert [[w.tokens for w in p] for p in passes.all] == [[30, 40], [20, 20], [130], [9]]
    assert passes.longest == 130


@pytest.mark.parametrize("name", [None, *PACKAGED])
def test_packaged_models_are_found_by_name(name: str | None) -> None:
    model = load_model(name, "cpu")
    assert model.config.parameters == 436_096
    assert not model.training
    assert model.config.l_max == (1026 if name == "hyenadna-ecoli-1k" else 1_048_578)


def test_a_folder_called_like_a_packaged_model_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tiny_model(l_max=77), tmp_path / PACKAGED[1])
    assert load_model(PACKAGED[1]).config.l_max == 77
    assert load_model(None).config.l_max == 1_048_578


def test_digest_names_shape_and_weights() -> None:
    digests = {weights_digest(tiny_model(**c)) for c in ({}, {"seed": 1}, {"l_max": 131}, {"shift": 0.0})}
    assert len(digests) == 4
    assert weights_digest(tiny_model()) in digests


def test_ctrl_c_keeps_what_was_noted(tmp_path: Path) -> None:
    notes = Notes(tmp_path, b"question")

    def work() -> None:
        with notes.open() as note:
            note(0, {"nats": 1.5})
            note(4, {"nats": 2.5})
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="resume=") as stop:
        work()
    assert (stop.value.signum, stop.value.exit_code) == (signal.SIGINT, 130)
    assert {key: line["nats"] for key, line in Notes(tmp_path, b"question").lines().items()} == {0: 1.5, 4: 2.5}
    with pytest.raises(UserError, match="start a new run"):
        Notes(tmp_path, b"another question")


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress_bar("read", 10, "bases") as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(likelihood, "SECONDS_BETWEEN_LINES", -1)
    with progress_bar("read", 8, "bases") as advance:
        advance(2)
        advance(6)
    said = capsys.readouterr()
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first.startswith("read: 25%, ")
    assert second.startswith("read: 100%, ")
    assert "bases/s" in first
    assert "s left" in first


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    def terminal(**_: object) -> rich_console.Console:
        return plain(file=screen, force_terminal=True, width=100)

    plain = rich_console.Console
    monkeypatch.setattr(rich_console, "Console", terminal)
    with progress_bar("read", 10, "bases") as advance:
        advance(10)
    assert "read" in screen.getvalue()
    assert "100%" in screen.getvalue()
    assert "bases/s" in screen.getvalue()


def test_places_of_results_are_looked_at_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    default = tmp_path / "scores.tsv"
    assert result_path(None, default) == default
    assert result_path(str(tmp_path / "a" / "b.tsv"), default) == tmp_path / "a" / "b.tsv"
    assert result_path(str(tmp_path / "file"), default) == tmp_path / "file"
    for out, folder in (("file/x", False), ("file/x/y", True), ("file", True), (".", False)):
        with pytest.raises(UserError, match="out="):
            result_path(str(tmp_path / out), default, folder=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
