"""Scores are sums of log-softmax over every base but the first, however sequences are cut, batched or interrupted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from farfield.apps.genomics import likelihood
from farfield.apps.genomics.fasta import reverse_complement
from farfield.apps.genomics.inference import memory_estimate
from farfield.apps.genomics.score import score
from farfield.apps.genomics.tokenizer import BASES, Tokenizer
from farfield.apps.training import UserError
from tests.apps.genomics.small import disturbed, random_bases, saved_model, settings, tiny_model, write_fasta

# A log-likelihood is written with six digits behind the point, out of fp32 logits.
CLOSE = {"rel": 2e-5, "abs": 2e-6}


def run(folder: Path, fasta: str, **values: Any) -> list[dict[str, str]]:
    """The table, as dicts."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = values.pop("checkpoint", None) or saved_model(folder / "model")
    path = score(run_folder=folder, **settings("score", fasta=fasta, checkpoint=checkpoint, **values))
    head, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


def direct(sequence: str, window: int = 130) -> tuple[float, int]:
    """Log-likelihood and number of bases by the plain model in float64, each base but the first once."""
    model, ids = tiny_model().double(), Tokenizer().encode(sequence).astype(np.int64)
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, window - 1):
            part = torch.from_numpy(ids[start : start + window])[None]
            logp = model(part[:, :-1]).log_softmax(-1).gather(2, part[:, 1:, None])[0, :, 0]
            known = (part[0, 1:] >= BASES[0]) & (part[0, 1:] <= BASES[-1])
            total, count = total + float(logp[known].sum()), count + int(known.sum())
    return total, count


def test_log_likelihood_is_the_sum_of_log_softmax(tmp_path: Path) -> None:
    sequences = {f"s{n}": random_bases(n, seed=n) for n in (2, 3, 57, 129, 130)}
    for row in run(tmp_path / "run", write_fasta(tmp_path / "a.fa", sequences)):
        expected, bases = direct(sequences[row["name"]])
        assert float(row["log_likelihood"]) == pytest.approx(expected, **CLOSE)
        assert float(row["bits_per_base"]) == pytest.approx(-expected / bases / math.log(2), **CLOSE)
        assert (int(row["bases"]), row["windows"], row["strand"]) == (bases, "1", "forward")


def test_both_strands_are_the_mean_of_each(tmp_path: Path) -> None:
    sequence = random_bases(300)
    fasta = write_fasta(tmp_path / "a.fa", {"s": sequence})
    found = {s: run(tmp_path / s, fasta, strand=s)[0] for s in ("forward", "reverse", "both")}
    forward, reverse = direct(sequence)[0], direct(reverse_complement(sequence))[0]
    assert abs(forward - reverse) > 1e-3
    for strand, expected in (("forward", forward), ("reverse", reverse), ("both", (forward + reverse) / 2)):
        assert float(found[strand]["log_likelihood"]) == pytest.approx(expected, **CLOSE)
        assert (found[strand]["bases"], found[strand]["windows"], found[strand]["strand"]) == ("299", "3", strand)


@pytest.mark.parametrize(("window", "windows"), [(None, 4), (130, 4), (101, 5), (11, 50)])
def test_a_longer_sequence_is_cut_and_every_base_but_the_first_is_scored_once(
    tmp_path: Path, window: int | None, windows: int
) -> None:
    sequence = random_bases(500)
    (row,) = run(tmp_path / "run", write_fasta(tmp_path / "a.fa", {"s": sequence}), window=window)
    expected, bases = direct(sequence, window or 130)
    assert (int(row["bases"]), bases, int(row["windows"])) == (499, 499, windows)
    assert float(row["log_likelihood"]) == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("strand", ["forward", "reverse"])
def test_intervals_of_a_bed_file_are_scored_in_its_order(tmp_path: Path, strand: str) -> None:
    sequence = random_bases(900)
    bed = tmp_path / "a.bed"
    bed.write_text("one\t400\t800\nzero\t0\t10\none\t0\t70\tname\n")
    fasta = write_fasta(tmp_path / "a.fa", {"zero": random_bases(10, 1), "one": sequence})
    rows = run(tmp_path / "run", fasta, bed=str(bed), strand=strand)
    assert [(r["name"], r["start"], r["end"]) for r in rows] == [
        ("one", "400", "800"), ("zero", "0", "10"), ("one", "0", "70"),
    ]  # fmt: skip
    part = sequence[400:800]
    expected = direct(part if strand == "forward" else reverse_complement(part))[0]
    assert float(rows[0]["log_likelihood"]) == pytest.approx(expected, **CLOSE)


def test_a_sequence_of_one_base_has_nothing_to_be_scored(tmp_path: Path) -> None:
    rows = run(tmp_path / "run", write_fasta(tmp_path / "a.fa", {"s": "A", "t": "ACG", "u": "N"}))
    assert [(r["log_likelihood"], r["bits_per_base"], r["bases"]) for r in rows[::2]] == [("0.000000", "nan", "0")] * 2
    assert rows[1]["bases"] == "2"


def test_case_does_not_count_and_unknown_symbols_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sequence = random_bases(100)
    soft = sequence[:50] + sequence[50:].lower()
    odd = sequence[:40] + "NNRYR" + sequence[45:]
    fasta = write_fasta(tmp_path / "a.fa", {"hard": sequence, "soft": soft, "odd": odd})
    rows = run(tmp_path / "upper", fasta)
    assert rows[0]["log_likelihood"] == rows[1]["log_likelihood"]
    assert [(r["bases"], r["unknown"]) for r in rows] == [("99", "0"), ("99", "0"), ("94", "5")]
    assert "3 symbols are unknown ([UNK]) under policy=upper: R 2, Y 1\n" in capsys.readouterr().err
    strict = run(tmp_path / "strict", fasta, policy="strict")
    assert [(r["bases"], r["unknown"]) for r in strict] == [("99", "0"), ("49", "50"), ("94", "5")]
    assert (
        f"53 symbols are unknown ([UNK]) under policy=strict: {max('acgt', key=soft.count)} " in capsys.readouterr().err
    )
    run(tmp_path / "codes", fasta, policy="ambiguous_n")
    assert "unknown" not in capsys.readouterr().err


def test_many_short_sequences_share_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    inner = likelihood.forward_long

    def counted(model: Any, tokens: torch.Tensor, **settings: Any) -> torch.Tensor:
        shapes.append(tuple(tokens.shape))
        return inner(model, tokens, **settings)

    monkeypatch.setattr(likelihood, "forward_long", counted)
    fasta = write_fasta(tmp_path / "a.fa", {f"s{i}": random_bases(60 + i % 5, i) for i in range(600)})
    rows = run(tmp_path / "run", fasta)
    assert [r["name"] for r in rows] == [f"s{i}" for i in range(600)]
    assert shapes == [(256, 64), (256, 64), (88, 64)]


def test_passes_shrink_to_the_memory_given(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "a.fa", {f"s{i}": random_bases(100, i) for i in range(6)})
    model, plenty = tiny_model(), run(tmp_path / "plenty", fasta)
    least = memory_estimate(model.config, 100, want="log_likelihood").total(1)
    windows = [likelihood.Window(i, 100, lambda: np.full(100, BASES[0], np.uint8)) for i in range(6)]
    assert [len(p) for p in likelihood.Passes(windows, model, "fp32", None).all] == [6]
    narrow = likelihood.Passes(windows, model, "fp32", least / 1e9 + 1e-6)
    assert [len(p) for p in narrow.all] == [1] * 6
    assert narrow.memory <= least + 1000
    for a, b in zip(run(tmp_path / "narrow", fasta, memory_gb=least / 1e9 + 1e-6), plenty, strict=True):
        assert float(a["log_likelihood"]) == pytest.approx(float(b["log_likelihood"]), **CLOSE)


def test_bf16_is_near_fp32(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "a.fa", {"s": random_bases(100)})
    (row,) = run(tmp_path / "half", fasta, precision="bf16")
    assert float(row["log_likelihood"]) == pytest.approx(direct(random_bases(100))[0], rel=2e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 131}, "window=131: a whole number from 2 to 130"),
        ({"window": 1}, "window=1"),
        ({"strand": "up"}, "forward, reverse, both are accepted"),
        ({"policy": "lower"}, "policy='lower'"),
        ({"precision": "fp8"}, "precision='fp8' is unknown"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"device": "tpu"}, "device='tpu' is unknown"),
        ({"memory_gb": 0.001}, "memory_gb=0.001: a pass over 50 bases takes at least 0.2"),
        ({"memory_gb": -1}, "memory_gb=-1"),
        ({"memory_gb": "much"}, "memory_gb=much"),
        ({"checkpoint": "nowhere"}, "checkpoint=nowhere: there is no such file or folder, and no packaged model"),
        ({"checkpoint": "a.fa"}, "neither a safetensors nor a torch checkpoint"),
        ({"checkpoint": "classes"}, "a classifier of 3 classes"),
        ({"fasta": "nowhere.fa"}, "there is no such file"),
        ({"fasta": "empty.fa"}, "the file is empty"),
        ({"bed": "empty.fa"}, "holds no interval"),
        ({"bed": "nowhere.bed"}, "there is no such file"),
        ({"bed": ""}, "there is no such file"),
        ({"out": "."}, "that is a folder, a file is accepted"),
        ({"out": "a.fa/scores.tsv"}, "nothing can be written in"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_fasta(tmp_path / "a.fa", {"s": random_bases(50)})
    (tmp_path / "empty.fa").touch()
    saved_model(tmp_path / "classes", n_classes=3)
    values = settings("score", fasta="a.fa", checkpoint=saved_model(tmp_path / "model")) | change
    (tmp_path / "run").mkdir()
    before = {path for path in tmp_path.rglob("*") if path.suffix != ".fai"}
    with pytest.raises(UserError) as error:
        score(run_folder=tmp_path / "run", **values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert {path for path in tmp_path.rglob("*") if path.suffix != ".fai"} == before


def test_notes_of_another_question_are_not_used(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "a.fa", {"s": random_bases(50)})
    model = saved_model(tmp_path / "model")
    first = run(tmp_path / "run", fasta, checkpoint=model)
    assert run(tmp_path / "run", fasta, checkpoint=model) == first
    for change in ({"strand": "both"}, {"window": 20}, {"checkpoint": saved_model(tmp_path / "other", seed=1)}):
        with pytest.raises(UserError, match="start a new run"):
            run(tmp_path / "run", fasta, **({"checkpoint": model} | change))
    write_fasta(tmp_path / "a.fa", {"s": random_bases(50, seed=1)})
    (tmp_path / "a.fa.fai").unlink()
    with pytest.raises(UserError, match="read other sequences"):
        run(tmp_path / "run", fasta, checkpoint=model)


def test_an_interrupted_run_goes_on_to_the_same_table(tmp_path: Path) -> None:
    write_fasta(tmp_path / "a.fa", {f"s{i}": random_bases(2000 + 13 * i, i) for i in range(80)})
    saved_model(tmp_path / "model")
    words = ["score", "fasta=a.fa", "checkpoint=model", "strand=both"]
    ends = disturbed(
        tmp_path,
        [
            {"words": [*words, "out=straight.tsv"]},
            {"words": [*words, "out=other.tsv"], "signal": "SIGKILL", "lines": 3},
            {"words": ["score", "resume=RUN"], "signal": "SIGINT", "lines": 3},
            {"words": ["score", "resume=RUN"], "signal": "SIGTERM", "lines": 3},
            {"words": ["score", "resume=RUN"]},
        ],
    )
    assert [end["code"] for end in ends] == [0, -9, 130, 143, 0], ends
    assert len({end["run"] for end in ends}) == 2
    for end in ends[2:4]:
        assert f"continue with resume={end['run']}" in end["err"]
    assert "Traceback" not in "".join(end["err"] for end in ends)
    assert (tmp_path / "straight.tsv").read_bytes() == (tmp_path / "other.tsv").read_bytes()
    # The table is there when it is whole, and not before.
    assert ["other.tsv" in end["files"] for end in ends] == [False, False, False, False, True]
    assert not list(tmp_path.rglob(".tmp-*"))
