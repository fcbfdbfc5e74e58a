"""Held-out bits are those of the plain models; an interrupted evaluation goes on to the same file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from farfield.apps.genomics.evaluate import codes, evaluate
from farfield.apps.genomics.markov import MarkovModel
from farfield.apps.genomics.tokenizer import BASES, Tokenizer
from farfield.apps.training import UserError
from tests.apps.genomics.small import (
    disturbed,
    random_bases,
    saved_model,
    settings,
    structured_bases,
    tiny_model,
    write_fasta,
)  # fmt: skip


def run(folder: Path, fasta: str, **values: Any) -> dict[str, float]:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = values.pop("checkpoint", None) or saved_model(folder / "model")
    return evaluate(run_folder=folder, **settings("evaluate", fasta=fasta, checkpoint=checkpoint, **values))


def direct(parts: list[str], window: int) -> float:
    """Bits per base of held-out parts by the plain model in float64; each has one base of context in front."""
    model, nats, bases = tiny_model().double(), 0.0, 0
    for part in parts:
        ids = Tokenizer().encode(part).astype(np.int64)
        for start in range(0, len(ids) - 1, window):
            seen = torch.from_numpy(ids[start : start + window + 1])[None]
            with torch.no_grad():
                logp = model(seen[:, :-1]).log_softmax(-1).gather(2, seen[:, 1:, None])[0, :, 0]
            known = (seen[0, 1:] >= BASES[0]) & (seen[0, 1:] <= BASES[-1])
            nats, bases = nats - float(logp[known].sum()), bases + int(known.sum())
    return nats / bases / math.log(2)


@pytest.mark.parametrize(("seqlen", "used"), [(None, 129), (129, 129), (40, 40)])
def test_bits_are_those_of_the_plain_model(tmp_path: Path, seqlen: int | None, used: int) -> None:
    one, two = random_bases(2000), random_bases(810, 1) + "NNNNNNN" + random_bases(183, 2).lower()
    bits = run(tmp_path / "run", write_fasta(tmp_path / "a.fa", {"one": one, "two": two}), seqlen=seqlen, orders=[])
    assert bits["model"] == pytest.approx(direct([one[1799:], two[899:]], used), rel=1e-5)
    assert list(bits) == ["model", "uniform"]
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written == {
        "bits_per_base": bits,
        "bases": 300,
        "windows": -(-200 // used) + -(-100 // used),
        "seqlen": used,
    }


def test_unknown_bases_are_not_counted(tmp_path: Path) -> None:
    sequence = random_bases(1000)
    holes = sequence[:930] + "N" * 20 + "ry" + sequence[952:]
    bits = run(tmp_path / "run", write_fasta(tmp_path / "a.fa", {"one": holes}), orders=[])
    assert bits["model"] == pytest.approx(direct([holes[899:]], 129), rel=1e-5)
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["bases"] == 78


def test_markov_rows_are_those_of_the_markov_model(tmp_path: Path) -> None:
    sequence = structured_bases(6000)
    bits = run(tmp_path / "run", write_fasta(tmp_path / "a.fa", {"one": sequence}), orders=[0, 3, 5])
    known = codes(Tokenizer().encode(sequence))
    model = MarkovModel([known[:5400]], 5)
    for order in (0, 3, 5):
        assert bits[f"Markov order {order}"] == pytest.approx(model.bits_per_base(known, order, 5400), rel=1e-6)
    assert bits["Markov order 3"] < 1.1 < 1.9 < bits["Markov order 0"]
    assert bits["uniform"] == 2


def test_a_bed_file_says_what_is_held_out(tmp_path: Path) -> None:
    sequence = random_bases(1000)
    bed = tmp_path / "a.bed"
    bed.write_text("one\t300\t400\tvalid\none\t50\t300\ttrain\none\t400\t900\ttest\none\t0\t50\tvalid\n")
    bits = run(tmp_path / "run", write_fasta(tmp_path / "a.fa", {"one": sequence}), bed=str(bed), orders=[2])
    assert bits["model"] == pytest.approx(direct([sequence[299:400], sequence[:50]], 129), rel=1e-5)


def test_the_table_goes_to_standard_output_and_the_rest_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta = write_fasta(tmp_path / "a.fa", {"one": random_bases(900) + "R" + random_bases(99)})
    run(tmp_path / "run", fasta, orders=[1], out=str(tmp_path / "deep" / "er" / "e.json"))
    said = capsys.readouterr()
    assert "Markov order 1" in said.out
    assert "99 held-out bases" in said.out
    assert "1 symbols are unknown ([UNK]) under policy=upper: R 1" in said.err
    assert "a pass reads up to" in said.err
    assert (tmp_path / "deep" / "er" / "e.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seqlen": 130}, "seqlen=130: a whole number from 1 to 129"),
        ({"seqlen": "long"}, "seqlen=long"),
        ({"orders": [13]}, "order=13: a whole number from 0 to 12"),
        ({"orders": ["x"]}, "order=x"),
        ({"orders": None}, "orders=None: a list"),
        ({"held_out": 1.0}, "held_out=1.0: a share"),
        ({"bed": "none.bed"}, "has nothing in its fourth column"),
        ({"bed": "train.bed"}, "nothing to hold out"),
        ({"fasta": "unknown.fa"}, "has no known base"),
        ({"fasta": "empty.fa"}, "the file is empty"),
        ({"checkpoint": "a.fa"}, "neither a safetensors nor a torch checkpoint"),
        ({"precision": "fp8"}, "precision='fp8' is unknown"),
        ({"out": "."}, "that is a folder"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_fasta(tmp_path / "a.fa", {"s": random_bases(500)})
    write_fasta(tmp_path / "unknown.fa", {"s": "N" * 500})
    (tmp_path / "empty.fa").touch()
    (tmp_path / "none.bed").write_text("s\t0\t100\n")
    (tmp_path / "train.bed").write_text("s\t0\t100\ttrain\n")
    values = settings("evaluate", fasta="a.fa", checkpoint=saved_model(tmp_path / "model")) | change
    (tmp_path / "run").mkdir()
    before = {path for path in tmp_path.rglob("*") if path.suffix != ".fai"}
    with pytest.raises(UserError) as error:
        evaluate(run_folder=tmp_path / "run", **values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert {path for path in tmp_path.rglob("*") if path.suffix != ".fai"} == before


def test_an_interrupted_run_goes_on_to_the_same_file(tmp_path: Path) -> None:
    write_fasta(tmp_path / "a.fa", {"one": random_bases(200_000)})
    saved_model(tmp_path / "model")
    words = ["evaluate", "fasta=a.fa", "checkpoint=model", "held_out=0.9", "orders=[2]"]
    ends = disturbed(
        tmp_path,
        [
            {"words": [*words, "out=straight.json"]},
            {"words": [*words, "out=other.json"], "signal": "SIGINT", "lines": 150},
            {"words": ["evaluate", "resume=RUN"]},
        ],
    )
    assert [end["code"] for end in ends] == [0, 130, 0], ends
    assert f"continue with resume={ends[1]['run']}" in ends[1]["err"]
    assert (tmp_path / "straight.json").read_bytes() == (tmp_path / "other.json").read_bytes()
