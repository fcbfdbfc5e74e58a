"""Batches are a function of seed and position; every held-out base is scored once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from farfield.apps.genomics.datamodule import GenomeWindows, cut_windows
from farfield.apps.genomics.fasta import reverse_complement
from farfield.apps.genomics.tokenizer import PAD, N, Tokenizer
from farfield.apps.training import UserError


def _genome(tmp_path: Path, sequences: dict[str, str]) -> str:
    path = tmp_path / "genome.fa"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in sequences.items()))
    return str(path)


def _random(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


@pytest.fixture
def windows(tmp_path: Path) -> GenomeWindows:
    fasta = _genome(tmp_path, {"one": _random(3001), "two": _random(777, seed=1)})
    return GenomeWindows(fasta=fasta, seqlen=64, batch=4, seed=5)


def _first(windows: GenomeWindows, count: int) -> list[torch.Tensor]:
    return [batch["ids"] for batch, _ in zip(windows.train_dataloader(), range(count), strict=False)]


def test_batch_depends_on_seed_and_position_alone(tmp_path: Path, windows: GenomeWindows) -> None:
    forward = [windows.train_batch(i)["ids"] for i in range(6)]
    backward = [windows.train_batch(i)["ids"] for i in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert len({tuple(x.flatten().tolist()) for x in forward}) == 6
    other = GenomeWindows(fasta=str(tmp_path / "genome.fa"), seqlen=64, batch=4, seed=6)
    assert not torch.equal(other.train_batch(0)["ids"], forward[0])


def test_resumed_loader_goes_on_where_the_first_one_was(windows: GenomeWindows) -> None:
    whole = _first(windows, 7)
    windows.set_start_step(4)
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], _first(windows, 3), strict=True))


def test_targets_are_the_inputs_one_base_later(windows: GenomeWindows) -> None:
    batch = windows.train_batch(3)
    assert batch["ids"].shape == batch["target"].shape == (4, 64)
    assert torch.equal(batch["ids"][:, 1:], batch["target"][:, :-1])
    assert batch["n_units"] == 4 * 64


@pytest.mark.parametrize("both_strands", [False, True])
def test_windows_are_stretches_of_the_training_part(tmp_path: Path, both_strands: bool) -> None:
    sequence = _random(2000)
    windows = GenomeWindows(
        fasta=_genome(tmp_path, {"one": sequence}), seqlen=40, batch=16, held_out=0.25, reverse_complement=both_strands
    )
    train, other = sequence[:1500], reverse_complement(sequence[:1500])
    strands = []
    for position in range(8):
        batch = windows.train_batch(position)
        for row in torch.cat([batch["ids"], batch["target"][:, -1:]], 1):
            text = Tokenizer().decode(row.numpy())
            assert text in train or text in other
            strands.append(text in train)
    share = np.mean(strands)
    assert (0.35 < share < 0.65) if both_strands else share == 1


def test_stages_of_the_length_warmup_follow_each_other(tmp_path: Path) -> None:
    windows = GenomeWindows(
        fasta=_genome(tmp_path, {"one": _random(3000)}), seqlen=128, batch=2, warmup=[[2, 16, 16], [3, 32, 8]]
    )
    shapes = [tuple(windows.train_batch(i)["ids"].shape) for i in (0, 1, 2, 4, 5, 1000)]
    assert shapes == [(16, 16), (16, 16), (8, 32), (8, 32), (2, 128), (2, 128)]


@pytest.mark.parametrize("val_seqlen", [1, 7, 64, 5000])
def test_every_held_out_base_is_a_target_once(tmp_path: Path, val_seqlen: int) -> None:
    one, two = _random(503), _random(110, seed=1)
    windows = GenomeWindows(fasta=_genome(tmp_path, {"one": one, "two": two}), seqlen=64, batch=4, held_out=0.2,
                            val_seqlen=val_seqlen)  # fmt: skip
    targets = torch.cat([row[row != PAD] for batch in windows.val_dataloader() for row in batch["target"]])
    assert Tokenizer().decode(targets.numpy()) == one[402:] + two[88:]


def test_bed_says_what_is_trained_on_and_what_is_held_out(tmp_path: Path) -> None:
    sequence = _random(1000)
    bed = tmp_path / "split.bed"
    bed.write_text("one\t0\t300\ttrain\none\t300\t400\ttest\none\t400\t500\tvalid\none\t500\t900\ttrain\n")
    windows = GenomeWindows(fasta=_genome(tmp_path, {"one": sequence}), bed=str(bed), seqlen=30, batch=8,
                            reverse_complement=False)  # fmt: skip
    for row in torch.cat([windows.train_batch(i)["ids"] for i in range(10)]):
        text = Tokenizer().decode(row.numpy())
        assert text in sequence[:300] or text in sequence[500:900]
    targets = torch.cat([row[row != PAD] for batch in windows.val_dataloader() for row in batch["target"]])
    assert Tokenizer().decode(targets.numpy()) == sequence[400:500]


def test_stretches_of_unknown_bases_are_avoided(tmp_path: Path) -> None:
    windows = GenomeWindows(
        fasta=_genome(tmp_path, {"one": _random(400) + "N" * 1200 + _random(400, seed=1)}), seqlen=50, batch=16
    )
    shares = [(row == N).double().mean().item() for i in range(5) for row in windows.train_batch(i)["ids"]]
    assert max(shares) <= 0.55
    assert np.mean(shares) < 0.1


def test_a_sequence_shorter_than_a_window_is_padded_behind(tmp_path: Path) -> None:
    windows = GenomeWindows(fasta=_genome(tmp_path, {"one": _random(60)}), seqlen=100, batch=2, held_out=0.5)
    ids = windows.train_batch(0)["ids"]
    assert ids.shape == (2, 100)
    assert (ids[:, :30] != PAD).all()
    assert (ids[:, 30:] == PAD).all()


def test_windows_of_a_sequence_share_one_token() -> None:
    parts = list(cut_windows(np.arange(10, dtype=np.uint8), 4))
    assert [p.tolist() for p in parts] == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9]]
    assert list(cut_windows(np.zeros(1, np.uint8), 4)) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [({"held_out": 0.0}, "held_out"), ({"held_out": 1.5}, "held_out"), ({"warmup": [[1, 2]]}, "stage")],
)
def test_mistakes_are_told(tmp_path: Path, change: dict[str, object], text: str) -> None:
    fasta = _genome(tmp_path, {"one": _random(500)})
    with pytest.raises(UserError, match=text):
        GenomeWindows(fasta=fasta, **change)  # type: ignore[arg-type]


def test_a_bed_without_a_part_is_refused(tmp_path: Path) -> None:
    fasta = _genome(tmp_path, {"one": _random(500)})
    bed = tmp_path / "split.bed"
    bed.write_text("one\t0\t300\ttrain\n")
    with pytest.raises(UserError, match="valid"):
        GenomeWindows(fasta=fasta, bed=str(bed))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("one\t0\t300\ttrain\none\t400\t500\tvald\n", "'vald'"),
        ("one\t0\t300\ttrain\none\t400\t500\n", "nothing"),
        ("one\t0\t300\ttrain\none\t299\t400\tvalid\n", "overlaps 0-300"),
        ("one\t0\t500\tvalid\none\t10\t20\tvalid\none\t100\t200\ttrain\n", "overlaps 0-500"),
    ],
)
def test_a_split_that_leaks_or_does_not_exist_is_refused(tmp_path: Path, text: str, named: str) -> None:
    fasta = _genome(tmp_path, {"one": _random(900)})
    bed = tmp_path / "split.bed"
    bed.write_text(text)
    with pytest.raises(UserError, match=named):
        GenomeWindows(fasta=fasta, bed=str(bed))
