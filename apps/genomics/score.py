"""`farfield genomics score`: log-likelihood of each sequence, or of each interval of a BED file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from farfield.apps.genomics.datamodule import Ids, cut_windows
from farfield.apps.genomics.fasta import Fasta, Interval, packaged_genome, read_bed
from farfield.apps.genomics.hyenadna import HyenaDNAConfig
from farfield.apps.genomics.inference import memory_estimate
from farfield.apps.genomics.likelihood import is_base, load_model, progress_bar, window_nats
from farfield.apps.genomics.tokenizer import COMPLEMENT, Tokenizer
from farfield.apps.training import UserError, atomic_write
from farfield.apps.training.metrics import MetricsLog, read_metrics

STRANDS = {"forward": (False,), "reverse": (True,), "both": (False, True)}
COLUMNS = ("name", "start", "end", "strand", "log_likelihood", "bits_per_base", "bases", "unknown", "windows")


def score(
    *,
    run_folder: Path,
    fasta: str | None,
    bed: str | None,
    checkpoint: str | None,
    out: str | None,
    strand: str,
    policy: str,
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
        policy: What lower case means: upper or strict, as of `Tokenizer`.
        window: Most bases read in one pass; None is all that the model can read. A longer sequence is read in
            consecutive windows, and the column `windows` says how many.
        memory_gb: Most memory of a pass, in 10^9 bytes; None is as much as is fastest.
        device, precision: As everywhere.
        seed: Noted; scoring draws nothing at random.
        resume: Run folder to continue.
    Returns: The file written.
    Raises: UserError: a file, interval or setting is wrong.
    """
    if strand not in STRANDS:
        raise UserError(f"strand={strand!r}: accepted: {', '.join(STRANDS)}")
    model = load_model(checkpoint, device)
    tokenizer, genome = Tokenizer(policy), Fasta(fasta or packaged_genome())
    intervals = read_bed(bed, genome) if bed else [Interval(n, 0, genome.length(n)) for n in genome.names]
    seqlen = min(window or model.config.l_max, model.config.l_max) - 1
    limit = None if memory_gb is None else int(memory_gb * 1e9)
    _announce(intervals, model.config, seqlen, limit)
    notes = run_folder / "scores.jsonl"
    done = {line["step"] for line in read_metrics(notes)}
    todo = [i for i in range(len(intervals)) if i not in done]

    def windows() -> Iterator[tuple[int, Ids]]:
        for i in todo:
            ids = tokenizer.encode(genome.read(intervals[i].name, intervals[i].start, intervals[i].stop))
            for reverse in STRANDS[strand]:
                for cut in cut_windows(COMPLEMENT[ids[::-1]] if reverse else ids, seqlen):
                    yield i, cut

    log = MetricsLog(notes, last_step=len(intervals))
    bases = sum(intervals[i].stop - intervals[i].start for i in todo) * len(STRANDS[strand])
    with progress_bar("score", bases, "bases") as advance:
        results = window_nats(model, windows(), precision=precision, memory_limit=limit)
        for i, parts in groupby(results, key=lambda result: result[0]):
            sums = np.zeros(4)
            for _, targets, nats in parts:
                known = is_base(targets)
                sums += nats[known].sum(dtype=np.float64), known.sum(), (~known).sum(), 1
                advance(len(targets))
            log.log(i, dict(zip(("nats", "bases", "unknown", "windows"), sums / len(STRANDS[strand]), strict=True)))
    log.close()
    target = Path(out) if out else run_folder / "scores.tsv"
    _write(target, intervals, strand, {line["step"]: line for line in read_metrics(notes)})
    print(f"{target}: {len(intervals):,} sequences")
    return target


def _announce(intervals: list[Interval], config: HyenaDNAConfig, seqlen: int, limit: int | None) -> None:
    """Say what will be read and what it takes, before anything is allocated."""
    lengths = [i.stop - i.start for i in intervals]
    longest = min(seqlen + 1, max(lengths, default=1))
    need = memory_estimate(config, longest, want="log_likelihood").total()
    print(
        f"{len(lengths):,} sequences, {sum(lengths):,} bases; a pass reads up to {longest:,} bases"
        f" and takes at most {min(need, limit or need) / 1e9:.2f} GB beside the libraries"
    )


def _write(path: Path, intervals: list[Interval], strand: str, found: dict[int, dict[str, float]]) -> None:
    """The table in the order of the sequences; one without a scored base has nan."""
    lines = ["\t".join(COLUMNS)]
    for i, interval in enumerate(intervals):
        # A sequence of one base has nothing before it to be predicted from.
        sums = found.get(i, {"nats": 0.0, "bases": 0, "unknown": 0, "windows": 0})
        bits = sums["nats"] / math.log(2) / sums["bases"] if sums["bases"] else math.nan
        cells = (interval.name, interval.start, interval.stop, strand, f"{-sums['nats']:.6f}", f"{bits:.6f}")
        counts = (round(sums[name]) for name in ("bases", "unknown", "windows"))
        lines.append("\t".join(map(str, (*cells, *counts))))
    atomic_write(path, "\n".join(lines) + "\n")
