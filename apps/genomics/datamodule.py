"""Windows of a genome for pretraining: each train batch is a function of seed and position alone.

Shapes: B windows, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from farfield.apps.genomics.fasta import Fasta, packaged_genome, read_bed
from farfield.apps.genomics.tokenizer import COMPLEMENT, PAD, N, Tokenizer
from farfield.apps.training import UserError

Ids = NDArray[np.uint8]
Batch = dict[str, Tensor | int]
# A window that is mostly unknown bases teaches nothing; so many draws are made for another one.
MOSTLY_UNKNOWN = 0.5
DRAWS = 20
# Bases kept before a held-out segment: context of its first bases (Markov models look back 12).
CONTEXT = 16


@dataclass(frozen=True)
class Segment:
    """A stretch of one sequence: where it starts, ids of its bases, and those of up to 16 bases before it."""

    name: str
    start: int
    ids: Ids
    before: Ids

    def with_context(self, bases: int) -> Ids:
        """The ids behind at most so many of the bases before them."""
        return np.concatenate([self.before[max(len(self.before) - bases, 0) :], self.ids])


def read_genome(fasta: str | None, bed: str | None, held_out: float) -> tuple[list[Segment], list[Segment]]:
    """Training and held-out segments of a genome.

    Args:
        fasta: The file; None is the genome of the package.
        bed: Intervals whose fourth column says train, valid or test; None holds out the end of every sequence.
        held_out: Share of every sequence that is held out without a BED file.
    Raises: UserError: a file is wrong, or one of the two parts is empty.
    """
    tokenizer = Tokenizer()
    path = packaged_genome() if fasta is None else Path(fasta)
    genome = Fasta(path)
    train, valid = [], []
    if bed is None:
        if not 0 < held_out < 1:
            raise UserError(f"data.held_out={held_out}: a share between 0 and 1 is accepted, for example 0.1")
        for name in genome.names:
            ids = tokenizer.encode(genome.read(name))
            cut = round(len(ids) * (1 - held_out))
            train.append(Segment(name, 0, ids[:cut], ids[:0]))
            valid.append(Segment(name, cut, ids[cut:], ids[max(cut - CONTEXT, 0) : cut]))
    else:
        for interval in read_bed(bed, genome):
            start = max(interval.start - CONTEXT, 0)
            ids = tokenizer.encode(genome.read(interval.name, start, interval.stop))
            cut = interval.start - start
            segment = Segment(interval.name, interval.start, ids[cut:], ids[:cut])
            {"train": train, "valid": valid}.get(interval.split or "", []).append(segment)
    for part, found in (("train", train), ("valid", valid)):
        if not any(len(s.ids) > 1 for s in found):
            where = f"{bed} has no interval with {part!r} in its fourth column" if bed else f"{path} is too short"
            raise UserError(f"nothing to {'train on' if part == 'train' else 'hold out'}: {where}")
    return train, valid


def cut_windows(ids: Ids, seqlen: int) -> Iterator[Ids]:
    """Windows of at most seqlen + 1 tokens, each beginning with the last of the one before.

    Every token but the first is a target once; a sequence of one token has no target and no window.
    """
    for start in range(0, len(ids) - 1, seqlen):
        yield ids[start : start + seqlen + 1]


def padded(ids: Ids, length: int) -> Ids:
    """The ids with PAD behind them up to a length."""
    return np.pad(ids, (0, length - len(ids)), constant_values=PAD)


class GenomeWindows(LightningDataModule):
    """Random training windows, and held-out windows in which every base is scored once.

    A window is L + 1 tokens: the first L are read, the last L are the targets. Sequences shorter than a window are padded.

    Args:
        fasta, bed, held_out: As of `read_genome`.
        seed: Of the windows.
        seqlen: Tokens a window, L.
        batch: Windows a batch and device, B.
        warmup: Stages before that, each [batches, seqlen, batch]: sequence-length warmup.
        reverse_complement: Read a window from the other strand with probability 1/2.
        val_seqlen: Tokens of a held-out window; seqlen when None.
        val_batch: Held-out windows a batch; as many tokens as a training batch has when None.
        val_bases: Held-out bases scored, in evenly spaced windows; all when None.
    """

    def __init__(
        self,
        *,
        fasta: str | None = None,
        bed: str | None = None,
        held_out: float = 0.1,
        seed: int = 0,
        seqlen: int = 1024,
        batch: int = 32,
        warmup: list[list[int]] | None = None,
        reverse_complement: bool = True,
        val_seqlen: int | None = None,
        val_batch: int | None = None,
        val_bases: int | None = None,
    ) -> None:
        super().__init__()
        self.seed, self.reverse_complement, self.val_bases = seed, reverse_complement, val_bases
        self.stages = _stages(warmup or [], seqlen, batch)
        self.val_seqlen = val_seqlen or seqlen
        self.val_batch = val_batch or max(1, seqlen * batch // self.val_seqlen)
        self.max_seqlen = max([self.val_seqlen, *(stage[1] for stage in self.stages)])
        self.train_segments, self.val_segments = read_genome(fasta, bed, held_out)
        self.start_step = 0

    def set_start_step(self, step: int) -> None:
        """Position of the next train batch: how many were consumed before."""
        self.start_step = step

    def train_batch(self, position: int) -> Batch:
        """The train batch at a position, whatever came before: ids (B, L), target (B, L), n_units."""
        seqlen, batch = next((n, b) for end, n, b in self.stages if end is None or position < end)
        random = np.random.Generator(np.random.Philox(key=[self.seed, position]))
        room = np.array([max(len(s.ids) - seqlen, 1) for s in self.train_segments], np.float64)
        windows = np.stack([self._window(random, room / room.sum(), seqlen + 1) for _ in range(batch)])
        return _batch(windows)

    def _window(self, random: np.random.Generator, share: NDArray[np.float64], length: int) -> Ids:
        for _ in range(DRAWS):
            segment = self.train_segments[random.choice(len(share), p=share)].ids
            start = int(random.integers(max(len(segment) - length, 0) + 1))
            window = segment[start : start + length]
            if (window == N).mean() <= MOSTLY_UNKNOWN:
                break
        if self.reverse_complement and random.random() < 0.5:
            window = COMPLEMENT[window[::-1]]
        return padded(window, length)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Train batches from the start position on, without end; each process takes its own share of positions."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return DataLoader(_Endless(self, rank, world), batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Held-out windows in order."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        windows = [w for s in self.val_segments for w in cut_windows(s.with_context(1), self.val_seqlen)]
        if self.val_bases is not None:
            kept = min(len(windows), max(1, self.val_bases // self.val_seqlen))
            windows = [windows[i] for i in np.linspace(0, len(windows) - 1, kept).round().astype(int)]
        return DataLoader(_Windows(windows[rank::world], self.val_batch), batch_size=None)


class _Endless(IterableDataset[Batch]):
    def __init__(self, windows: GenomeWindows, rank: int, world: int) -> None:
        self.windows, self.rank, self.world = windows, rank, world

    def __iter__(self) -> Iterator[Batch]:
        step = self.windows.start_step
        while True:
            yield self.windows.train_batch(step * self.world + self.rank)
            step += 1


class _Windows(Dataset[Batch]):
    def __init__(self, windows: list[Ids], batch: int) -> None:
        self.windows, self.batch = windows, batch

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch)

    def __getitem__(self, i: int) -> Batch:
        # A dataset without __iter__ ends at the first IndexError.
        if i >= len(self):
            raise IndexError(i)
        windows = self.windows[i * self.batch : (i + 1) * self.batch]
        return _batch(np.stack([padded(w, max(map(len, windows))) for w in windows]))


def _batch(windows: Ids) -> Batch:
    tokens = torch.from_numpy(windows.astype(np.int64))
    return {"ids": tokens[:, :-1], "target": tokens[:, 1:], "n_units": tokens[:, 1:].numel()}


def _stages(warmup: list[list[int]], seqlen: int, batch: int) -> list[tuple[int | None, int, int]]:
    """(position it ends at, seqlen, batch) of every stage; the last has no end."""
    stages: list[tuple[int | None, int, int]] = []
    end = 0
    for stage in [*warmup, [1, seqlen, batch]]:
        if len(stage) != 3 or not all(isinstance(v, int) and v > 0 for v in stage):
            raise UserError(f"data: stage {stage} is not [batches, seqlen, batch] of positive whole numbers")
        end += stage[0]
        stages.append((end, stage[1], stage[2]))
    stages[-1] = (None, seqlen, batch)
    return stages
