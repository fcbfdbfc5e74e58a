"""`farfield genomics score`: log-likelihood of each sequence, or of each interval of a BED file."""

from __future__ import annotations

import hashlib
import math
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from farfield.apps.genomics.datamodule import Ids, Reader, check_count, is_base, spans
from farfield.apps.genomics.fasta import Interval, read_bed
from farfield.apps.genomics.likelihood import Notes, Passes, Window, load_model, result_path, weights_digest
from farfield.apps.genomics.tokenizer import COMPLEMENT, Policy
from farfield.apps.training import UserError, atomic_write

STRANDS = {"forward": (False,), "reverse": (True,), "both": (False, True)}
COLUMNS = ("name", "start", "end", "strand", "log_likelihood", "bits_per_base", "bases", "unknown", "windows")
# Bases of one look at a sequence before it is scored.
LOOK = 2**24


def score(
    *,
    run_folder: Path,
    fasta: str | None,
    bed: str | None,
    checkpoint: str | None,
    out: str | None,
    strand: str,
    policy: Policy,
    window: int | None,
    memory_gb: float | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> Path:
    """Write one line a sequence: natural log-likelihood and bits per base.

    Args:
        run_folder: Where finished sequences are noted, so that an interrupted run goes on.
        fasta: Sequences; None is the E. coli genome of the package.
        bed: Intervals of them; None takes every sequence whole.
        checkpoint: Model in any format; None is the trained model of the package.
        out: Tab-separated file to write; None is scores.tsv in the run folder.
        strand: forward, reverse (the reverse complement is read), or both (the mean of the two log-likelihoods).
        policy: What stands for a base, as of `Tokenizer`.
        window: Most bases read in one pass; None is all that the model can read. A longer sequence is read in
            consecutive windows, and the column `windows` says how many.
        memory_gb: Most memory of a pass, in 10^9 bytes; None is as much as is fastest.
        device, precision: As everywhere.
        seed: Noted; scoring draws nothing at random.
        resume: Run folder to continue.
    Returns: The file written.
    Raises: UserError: a file, interval or setting is wrong. Interrupted: Ctrl-C came; what was scored is noted.
    """
    if strand not in STRANDS:
        raise UserError(f"strand={strand}: {', '.join(STRANDS)} are accepted")
    target = result_path(out, run_folder / "scores.tsv")
    reader = Reader(fasta, policy)
    intervals = read_bed(str(bed), reader.genome) if bed is not None else _whole(reader)
    model = load_model(checkpoint, device)
    if window is not None:
        check_count("window", window, 2, model.config.l_max)
    seqlen = (window or model.config.l_max) - 1
    strands = STRANDS[strand]
    windows = [
        Window(i, stop - start, partial(_ids, reader, interval, start, stop, reverse))
        for i, interval in enumerate(intervals)
        for reverse in strands
        for start, stop in spans(interval.stop - interval.start, seqlen)
    ]
    passes = Passes(windows, model, precision, memory_gb)
    question = _look(reader, intervals) + weights_digest(model) + f"{strand} {seqlen} {precision}".encode()
    reader.tell_unknown()
    passes.tell()
    notes = Notes(run_folder, question)
    done = notes.lines()
    with notes.open() as note:
        for i, parts in groupby(passes.nats("score", done), key=lambda part: part[0]):
            sums = np.zeros(4)
            for _, targets, nats in parts:
                known = is_base(targets)
                sums += nats[known].sum(dtype=np.float64), known.sum(), (~known).sum(), 1
            if i not in done:
                note(i, dict(zip(("nats", "bases", "unknown", "windows"), sums / len(strands), strict=True)))
    _write(target, intervals, strand, notes.lines())
    print(f"{target}: {len(intervals):,} sequences, {sum(i.stop - i.start for i in intervals):,} bases")
    return target


def _whole(reader: Reader) -> list[Interval]:
    return [Interval(name, 0, reader.genome.length(name)) for name in reader.genome.names]


def _ids(reader: Reader, interval: Interval, start: int, stop: int, reverse: bool) -> Ids:
    """Tokens start to stop of an interval, or of its other strand."""
    if not reverse:
        return reader.read(interval.name, interval.start + start, interval.start + stop, count=False)
    ids = reader.read(interval.name, interval.stop - stop, interval.stop - start, count=False)
    return COMPLEMENT[ids[::-1]]


def _look(reader: Reader, intervals: list[Interval]) -> bytes:
    """Reads everything once: counts unknown symbols, and names the sequences by their digest."""
    digest = hashlib.sha256()
    for interval in intervals:
        digest.update(f"{interval.name}:{interval.start}-{interval.stop}\n".encode())
        for start in range(interval.start, interval.stop, LOOK):
            digest.update(reader.read(interval.name, start, min(start + LOOK, interval.stop)).tobytes())
    return digest.digest()


def _write(path: Path, intervals: list[Interval], strand: str, found: dict[int, dict[str, float]]) -> None:
    """The table in the order of the sequences; one without a scored base has nan."""
    lines = ["\t".join(COLUMNS)]
    for i, interval in enumerate(intervals):
        # A sequence of one base has nothing before it to be predicted from.
        sums = found.get(i, {"nats": 0.0, "bases": 0, "unknown": 0, "windows": 0})
        bits = sums["nats"] / math.log(2) / sums["bases"] if sums["bases"] else math.nan
        cells = (interval.name, interval.start, interval.stop, strand, f"{0.0 - sums['nats']:.6f}", f"{bits:.6f}")
        counts = (round(sums[name]) for name in ("bases", "unknown", "windows"))
        lines.append("\t".join(map(str, (*cells, *counts))))
    atomic_write(path, "\n".join(lines) + "\n")
