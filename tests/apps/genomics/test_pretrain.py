"""Pretraining learns what there is to learn, and gives the same numbers however often it is interrupted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from farfield.apps.genomics.checkpoint import save
from farfield.apps.genomics.evaluate import evaluate
from farfield.apps.genomics.hyenadna import HyenaDNA
from farfield.apps.genomics.pretrain import pretrain
from farfield.apps.training import RunFolder, UserError
from farfield.apps.training.checkpoint import read_weights
from farfield.apps.training.manifest import checkpoint_folders, read_about
from tests.apps.genomics.small import (
    disturbed,
    random_bases,
    saved_model,
    settings,
    structured_bases,
    tiny_model,
    write_fasta,
)

TINY = (
    *("model.d_model=16", "model.n_layer=1", "model.d_inner=32", "model.l_max=66", "model.filter_order=16"),
    *("data.seqlen=64", "data.batch=4", "trainer.lr=0.01", "trainer.log_every=1"),
)
# Times and rates differ from run to run.
VOLATILE = ("time", "steps/s", "units/s")


def words(steps: int, *more: str, every: int = 4) -> list[str]:
    pace = (f"trainer.max_steps={steps}", f"trainer.val_every={every}", f"trainer.checkpoint_every={every}")
    return [*TINY, *pace, *more]


def run(folder: Path, fasta: str, *given: str, **values: Any) -> float | None:
    return pretrain(run_folder=folder, **settings("pretrain", f"fasta={fasta}", *given, **values))


def numbers(folder: Path) -> list[dict[str, float]]:
    """What the metrics say, times and rates left out."""
    return [{k: v for k, v in line.items() if k not in VOLATILE} for line in RunFolder(folder).metrics()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_held_out_bits_fall_below_order_0(tmp_path: Path) -> None:
    sequence = structured_bases(10_000)
    fasta = write_fasta(tmp_path / "a.fa", {"one": sequence})
    # Both strands have other successors: on one strand alone the chain is simple.
    more = ("data.batch=16", "model.embed_dropout=0", "data.reverse_complement=false", "trainer.warmup_fraction=0.1")
    best = run(tmp_path / "run", fasta, *words(120, *more, every=60))
    shares = np.bincount(np.frombuffer(sequence[9_000:].encode(), np.uint8))
    shares = shares[shares > 0] / shares.sum()
    order_0 = -float((shares * np.log2(shares)).sum())
    assert best is not None
    assert best < order_0 - 0.2, (best, order_0)
    given = settings("evaluate", fasta=fasta, checkpoint=str(tmp_path / "run" / "model"), seqlen=64, orders=[])
    (tmp_path / "evaluated").mkdir()
    assert evaluate(run_folder=tmp_path / "evaluated", **given)["model"] == pytest.approx(best, rel=1e-5)


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "a.fa", {"one": random_bases(3000)})
    found = [run(tmp_path / f"run{i}", fasta, *words(8), seed=seed) for i, seed in enumerate((1, 1, 2))]
    assert found[0] == found[1] != found[2]
    assert numbers(tmp_path / "run0") == numbers(tmp_path / "run1") != numbers(tmp_path / "run2")
    assert same(weights(tmp_path / "run0" / "model"), weights(tmp_path / "run1" / "model"))


def test_the_model_is_that_of_the_best_checkpoint(tmp_path: Path) -> None:
    # Another chain is held out than is trained on: what is learnt first helps with both, the rest with one alone.
    sequence = structured_bases(1800) + structured_bases(200).translate(str.maketrans("ACGT", "CGTA"))
    fasta = write_fasta(tmp_path / "a.fa", {"one": sequence})
    more = ("trainer.warmup_fraction=0", "data.batch=8", "data.reverse_complement=false")
    best = run(tmp_path / "run", fasta, *words(60, *more, every=10), out=str(tmp_path / "out"))
    bits = {
        line["step"]: line["val/bits_per_base"] for line in numbers(tmp_path / "run") if "val/bits_per_base" in line
    }
    step = min(bits, key=lambda s: bits[s])
    assert step < max(bits), "the last one is the best: this test shows nothing"
    folders = {read_about(f).step: f for f in checkpoint_folders(tmp_path / "run" / "checkpoints")}
    assert best == bits[step] == read_about(folders[step]).value
    kept = {k.removeprefix("model."): v for k, v in read_weights(folders[step]).items()}
    found = weights(tmp_path / "out")
    assert all(torch.equal(found[k], kept[k]) for k in found)
    last = {k.removeprefix("model."): v for k, v in read_weights(folders[60]).items()}
    assert not all(torch.equal(found[k], last[k]) for k in found)


@pytest.mark.parametrize("validated", [True, False])
def test_a_finished_run_gives_its_model_again(tmp_path: Path, validated: bool) -> None:
    fasta = write_fasta(tmp_path / "a.fa", {"one": random_bases(2000)})
    given = words(6, f"trainer.val_every={2 if validated else 0}")
    first = run(tmp_path / "run", fasta, *given)
    assert (first is not None) is validated
    found = weights(tmp_path / "run" / "model")
    again = pretrain(run_folder=tmp_path / "run", **settings("pretrain", f"fasta={fasta}", *given) | {"resume": "run"})
    assert again == first
    assert same(found, weights(tmp_path / "run" / "model"))


def test_training_goes_on_from_a_checkpoint_with_dropout(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "a.fa", {"one": random_bases(2000)})
    start = save(tiny_model(l_max=66, embed_dropout=0.5), tmp_path / "start").parent
    # A rate of almost nothing: only dropout can move the loss away from the model's own.
    still = words(3, "trainer.lr=1e-12", "trainer.weight_decay=0", f"checkpoint={start}", every=1)
    run(tmp_path / "dropped", fasta, *still)
    save(tiny_model(l_max=66, embed_dropout=0.0), start)
    run(tmp_path / "plain", fasta, *still)
    dropped, plain = ([n["train/loss"] for n in numbers(tmp_path / name)] for name in ("dropped", "plain"))
    assert all(abs(a - b) > 1e-3 for a, b in zip(dropped, plain, strict=True))
    bits = [[n["val/bits_per_base"] for n in numbers(tmp_path / name)] for name in ("dropped", "plain")]
    np.testing.assert_allclose(*bits, rtol=1e-5)
    assert HyenaDNA.from_checkpoint(tmp_path / "dropped" / "model").config.embed_dropout == 0.5


def test_a_packaged_model_is_a_start(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "a.fa", {"one": random_bases(600)})
    run(tmp_path / "run", fasta, *words(1, every=1), checkpoint="hyenadna-ecoli-1k")
    assert HyenaDNA.from_checkpoint(tmp_path / "run" / "model").config.parameters == 436_096


def test_lower_case_and_unknown_bases_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sequence = random_bases(2000)
    mixed = sequence[:900] + "N" * 100 + sequence[1000:]
    hard = run(tmp_path / "hard", write_fasta(tmp_path / "a.fa", {"one": mixed}), *words(4))
    capsys.readouterr()
    soft = run(tmp_path / "soft", write_fasta(tmp_path / "b.fa", {"one": mixed.lower()}), *words(4))
    assert soft == hard
    assert "unknown" not in capsys.readouterr().err
    run(tmp_path / "odd", write_fasta(tmp_path / "c.fa", {"one": mixed[:50] + "RRY" + mixed[53:]}), *words(2))
    assert "c.fa: 3 symbols are unknown ([UNK]) under policy=upper: R 2, Y 1" in capsys.readouterr().err
    run(tmp_path / "codes", str(tmp_path / "c.fa"), *words(2), policy="ambiguous_n")
    assert "unknown" not in capsys.readouterr().err
    with pytest.raises(UserError, match="no known base"):
        run(tmp_path / "none", str(tmp_path / "b.fa"), *words(2), policy="strict")
    assert "2,000 symbols are unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["data.seqlen=67"], "windows of 67 bases are longer than model.l_max=66"),
        (["data.val_seqlen=67"], "windows of 67 bases"),
        (["data.val_batch=many"], "data.val_batch=many"),
        (["data.batch=0"], "data.batch=0: a whole number from 1 on"),
        (["data.warmup=[3]"], "[batches, seqlen, batch]"),
        (["data.warmup=[[1,0,1]]"], "data.seqlen=0"),
        (["data.held_out=1.5"], "held_out=1.5: a share"),
        (["precision=fp8"], "precision='fp8' is unknown"),
        (["device=tpu"], "device='tpu' is unknown"),
        (["trainer.lr=-0.1"], "trainer.lr=-0.1: a number above 0"),
        (["trainer.weight_decay=-1"], "trainer.weight_decay=-1"),
        (["trainer.warmup_fraction=2"], "trainer.warmup_fraction=2: a share"),
        (["trainer.max_steps=0"], "max_steps=0"),
        (["model.order=1"], "order=1"),
        (["seed=-1"], "seed=-1"),
        (["budget=soon"], "budget='soon' is no time"),
        (["fasta=empty.fa"], "the file is empty"),
        (["fasta=nowhere.fa"], "there is no such file"),
        (["fasta=unknown.fa"], "has no known base"),
        (["bed=empty.fa"], "holds no interval"),
        (["bed=plain.bed"], "has nothing in its fourth column"),
        (["checkpoint=nowhere"], "checkpoint=nowhere: there is no such file or folder, and no packaged model"),
        (["checkpoint=a.fa"], "neither a safetensors nor a torch checkpoint"),
        (["checkpoint=classes"], "a classifier of 3 classes"),
        (["out=a.fa"], "that is a file, a folder is accepted"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_fasta(tmp_path / "a.fa", {"s": random_bases(900)})
    write_fasta(tmp_path / "unknown.fa", {"s": "N" * 500})
    (tmp_path / "empty.fa").touch()
    (tmp_path / "plain.bed").write_text("s\t0\t100\n")
    saved_model(tmp_path / "classes", n_classes=3)
    values = settings("pretrain", "fasta=a.fa", *words(2), *change)
    before = {path for path in tmp_path.rglob("*") if path.suffix != ".fai"}
    with pytest.raises(UserError) as error:
        pretrain(run_folder=tmp_path / "run", **values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    left = {path for path in tmp_path.rglob("*") if path.suffix != ".fai"} - before
    assert left <= {tmp_path / "run"}


def ended(tmp_path: Path, steps: int, disturbances: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Path, Path]:
    """A run in one go, and one that is ended again and again; how each ended, and the two run folders."""
    write_fasta(tmp_path / "a.fa", {"one": structured_bases(4000)})
    line = ["pretrain", "fasta=a.fa", *words(steps)]
    first, *others = disturbances
    resumed = [{"words": ["pretrain", "resume=RUN", *other.pop("words", [])]} | other for other in others]
    last = {"words": ["pretrain", "resume=RUN", "budget=null"]}
    ends = disturbed(tmp_path, [{"words": line}, {"words": [*line, *first.pop("words", [])]} | first, *resumed, last])
    return ends, Path(ends[0]["run"]), Path(ends[1]["run"])


def assert_same_result(ends: list[dict[str, Any]], straight: Path, other: Path) -> None:
    assert straight != other
    assert {end["run"] for end in ends[1:]} == {str(other)}
    assert (ends[0]["code"], ends[-1]["code"]) == (0, 0), ends
    assert numbers(straight) == numbers(other)
    assert same(weights(straight / "model"), weights(other / "model"))
    last = [checkpoint_folders(folder / "checkpoints")[-1] for folder in (straight, other)]
    assert same(read_weights(last[0]), read_weights(last[1]))
    assert json.loads((last[0] / "manifest.json").read_text())["about"] == read_about(last[1]).__dict__
    assert not list(other.rglob(".tmp-*"))
    assert not any("Traceback" in end["err"] for end in ends)


def test_a_run_ended_by_anything_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    moment = random.SystemRandom().uniform(0, 0.05)
    disturbances = [
        {"signal": "SIGINT", "lines": 3},
        {"signal": "SIGKILL", "lines": 6, "seconds": moment},
        {"words": ["budget=0.000001"]},
        {"signal": "SIGTERM", "lines": 2},
    ]
    ends, straight, other = ended(tmp_path, 40, disturbances)
    assert [end["code"] for end in ends] == [0, 130, -9, 0, 143, 0], ends
    for end in (ends[1], ends[4]):
        assert f"continue with resume={other}" in end["err"]
    assert f"continue with resume={other}" in ends[3]["err"]
    assert "held-out bits per base" in ends[-1]["out"]
    assert_same_result(ends, straight, other)


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_at_most_one_interval(tmp_path: Path) -> None:
    moments = random.Random(7)
    kills = [{"signal": "SIGKILL", "lines": 1, "seconds": moments.uniform(0, 0.4)} for _ in range(12)]
    ends, straight, other = ended(tmp_path, 400, kills)
    assert [end["code"] for end in ends] == [0, *[-9] * 12, 0], ends
    for end in ends[1:-1]:
        assert end["saved"] > end["logged"] - 4 - 1, end
    assert_same_result(ends, straight, other)
