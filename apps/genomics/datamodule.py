"""Windows of a genome for pretraining: each train batch is a function of seed and position alone.

Shapes: B windows, L tokens.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from farfield.apps.genomics.fasta import Fasta, Interval, packaged_genome, read_bed
from farfield.apps.genomics.tokenizer import BASES, COMPLEMENT, PAD, UNK, N, Policy, Tokenizer
from farfield.apps.training import UserError

Ids = NDArray[np.uint8]
Batch = dict[str, Tensor | int]
# A window that is mostly unknown bases teaches nothing; so many draws are made for another one.
MOSTLY_UNKNOWN = 0.5
DRAWS = 20
SPLITS = ("train", "valid", "test")
# Bases kept before a held-out segment: context of its first bases (Markov models look back 12).
CONTEXT = 16
# Symbols that a message about unknown ones lists at most.
SHOWN = 12


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


def is_base(ids: Ids) -> NDArray[np.bool_]:
    """Where a token is A, C, G or T."""
    return (ids >= BASES[0]) & (ids <= BASES[-1])


def check_count(name: str, value: object, least: int = 1, most: float = float("inf")) -> None:
    """Refuses what is no whole number from least to most.

    Raises: UserError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(
            f"{name}={value}: a whole number from {least:,} {f'to {most:,}' if most < 2**62 else 'on'} is accepted"
        )


class Reader:
    """Ids of stretches of a FASTA file; `unknown` counts the symbols that became [UNK] on the way.

    Args:
        fasta: The file; None is the genome of the package.
        policy: What stands for a base, as of `Tokenizer`.
    """

    def __init__(self, fasta: str | None, policy: Policy = "upper") -> None:
        self.tokenizer = Tokenizer(policy)
        self.genome = Fasta(packaged_genome() if fasta is None else str(fasta))
        self.unknown: Counter[str] = Counter()

    def read(self, name: str, start: int, stop: int, *, count: bool = True) -> Ids:
        """Ids of bases start to stop of a sequence."""
        text = self.genome.read(name, start, stop)
        ids = self.tokenizer.encode(text)
        if count and (ids == UNK).any():
            self.unknown.update(self.tokenizer.unknown(text))
        return ids

    def tell_unknown(self) -> None:
        """Says on standard error which symbols became [UNK] and how often; nothing where none did."""
        if not self.unknown:
            return
        shown = ", ".join(f"{symbol} {count:,}" for symbol, count in self.unknown.most_common(SHOWN))
        more = f" and {len(self.unknown) - SHOWN} more" if len(self.unknown) > SHOWN else ""
        print(
            f"{self.genome.path}: {self.unknown.total():,} symbols are unknown ([UNK]) under"
            f" policy={self.tokenizer.policy}: {shown}{more}",
            file=sys.stderr,
        )


def read_genome(
    fasta: str | None, bed: str | None, held_out: float, policy: Policy = "upper"
) -> tuple[list[Segment], list[Segment]]:
    """Training and held-out segments of a genome; symbols that became [UNK] are told on standard error.

    Args:
        fasta: The file; None is the genome of the package.
        bed: Intervals whose fourth column says train, valid or test; None holds out the end of every sequence.
        held_out: Share of every sequence that is held out without a BED file.
        policy: What stands for a base, as of `Tokenizer`.
    Raises: UserError: a file is wrong, or one of the two parts is empty.
    """
    if bed is None and not 0 < held_out < 1:
        raise UserError(f"held_out={held_out}: a share between 0 and 1 is accepted, for example 0.1")
    reader = Reader(fasta, policy)
    genome = reader.genome
    train, valid = [], []
    if bed is None:
        for name in genome.names:
            ids = reader.read(name, 0, genome.length(name))
            cut = round(len(ids) * (1 - held_out))
            train.append(Segment(name, 0, ids[:cut], ids[:0]))
            valid.append(Segment(name, cut, ids[cut:], ids[max(cut - CONTEXT, 0) : cut]))
    else:
        intervals = read_bed(str(bed), genome)
        _check_splits(str(bed), intervals)
        for interval in intervals:
            start = max(interval.start - CONTEXT, 0)
            ids = reader.read(interval.name, start, interval.stop)
            cut = interval.start - start
            segment = Segment(interval.name, interval.start, ids[cut:], ids[:cut])
            {"train": train, "valid": valid}.get(interval.split or "", []).append(segment)
    reader.tell_unknown()
    for part, found in (("train", train), ("valid", valid)):
        if not any(is_base(s.with_context(1)[1:]).any() for s in found):
            where = (
                f"{bed} has no interval with {part!r} in its fourth column and known bases in it"
                if bed
                else f"the {'first' if part == 'train' else 'last'} part of {genome.path} has no known base"
            )
            raise UserError(f"nothing to {'train on' if part == 'train' else 'hold out'}: {where}")
    return train, valid


def _check_splits(bed: str, intervals: list[Interval]) -> None:
    """Refuses a split that does not exist, and bases that are both trained on and held out."""
    end: dict[tuple[str, str], Interval] = {}
    for interval in sorted(intervals, key=lambda i: (i.name, i.start)):
        where = f"{bed}: {interval.name}:{interval.start}-{interval.stop}"
        if interval.split not in SPLITS:
            given = repr(interval.split) if interval.split else "nothing"
            raise UserError(f"{where} has {given} in its fourth column; accepted: {', '.join(SPLITS)}")
        other = end.get((interval.name, "valid" if interval.split == "train" else "train"))
        if interval.split != "test" and other is not None and other.stop > interval.start:
            raise UserError(
                f"{where} ({interval.split}) overlaps {other.start}-{other.stop} ({other.split}): what is trained on"
                " cannot be held out; cut one of them"
            )
        last = end.get((interval.name, interval.split))
        if last is None or interval.stop > last.stop:
            end[interval.name, interval.split] = interval


def spans(length: int, seqlen: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of windows of at most seqlen + 1 tokens, each beginning with the last of the one before.

    Every token but the first is a target once; a sequence of one token has no target and no window.
    """
    for start in range(0, length - 1, seqlen):
        yield start, min(start + seqlen + 1, length)


def cut_windows(ids: Ids, seqlen: int) -> Iterator[Ids]:
    """The windows of `spans`."""
    for start, stop in spans(len(ids), seqlen):
        yield ids[start:stop]


def padded(ids: Ids, length: int) -> Ids:
    """The ids with PAD behind them up to a length."""
    return np.pad(ids, (0, length - len(ids)), constant_values=PAD)


class GenomeWindows(LightningDataModule):
    """Random training windows, and held-out windows in which every base is scored once.

    A window is L + 1 tokens: the first L are read, the last L are the targets. A shorter sequence is padded.

    Args:
        fasta, bed, held_out: As of `read_genome`.
        policy: What stands for a base, as of `Tokenizer`.
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
        policy: Policy = "upper",
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
        check_count("seed", seed, 0)
        for name, value in (("val_seqlen", val_seqlen), ("val_batch", val_batch), ("val_bases", val_bases)):
            if value is not None:
                check_count(f"data.{name}", value)
        self.seed, self.reverse_complement, self.val_bases = seed, reverse_complement, val_bases
        self.stages = _stages(warmup or [], seqlen, batch)
        self.val_seqlen = val_seqlen or seqlen
        self.val_batch = val_batch or max(1, seqlen * batch // self.val_seqlen)
        self.max_seqlen = max([self.val_seqlen, *(stage[1] for stage in self.stages)])
        self.train_segments, self.val_segments = read_genome(fasta, bed, held_out, policy)
        self.start_step = 0
        self._shares: dict[int, NDArray[np.float64]] = {}

    def set_start_step(self, step: int) -> None:
        """Position of the next train batch: how many were consumed before."""
        self.start_step = step

    def train_batch(self, position: int) -> Batch:
        """The train batch at a position, whatever came before: ids (B, L), target (B, L), n_units."""
        seqlen, batch = next((n, b) for end, n, b in self.stages if end is None or position < end)
        random = np.random.Generator(np.random.Philox(key=[self.seed, position]))
        ends = self._ends(seqlen)
        return _batch(np.stack([self._window(random, ends, seqlen + 1) for _ in range(batch)]))

    def _ends(self, seqlen: int) -> NDArray[np.float64]:
        """For each segment, the share of windows that lie in it or in one before."""
        if seqlen not in self._shares:
            room = np.cumsum([_room(s.ids, seqlen) for s in self.train_segments], dtype=np.float64)
            self._shares[seqlen] = room / room[-1]
        return self._shares[seqlen]

    def _window(self, random: np.random.Generator, ends: NDArray[np.float64], length: int) -> Ids:
        for _ in range(DRAWS):
            segment = self.train_segments[int(ends.searchsorted(random.random(), side="right"))].ids
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


def _room(ids: Ids, seqlen: int) -> int:
    """Places of a window; one for a shorter sequence, none where nothing could be a target."""
    return max(len(ids) - seqlen, 1) if len(ids) > 1 else 0


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
        if not isinstance(stage, list) or len(stage) != 3:
            raise UserError(f"data.warmup: {stage} came, [batches, seqlen, batch] is accepted as a stage")
        for name, value in zip(("batches of data.warmup", "data.seqlen", "data.batch"), stage, strict=True):
            check_count(name, value)
        end += stage[0]
        stages.append((end, stage[1], stage[2]))
    stages[-1] = (None, seqlen, batch)
    return stages
