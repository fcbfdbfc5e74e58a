"""`farfield genomics evaluate`: held-out bits per base beside uniform and Markov models."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np

from farfield.apps.genomics.datamodule import Ids, Segment, check_count, cut_windows, is_base, read_genome
from farfield.apps.genomics.likelihood import Notes, Passes, Window, load_model, result_path, weights_digest
from farfield.apps.genomics.markov import MAX_ORDER, Codes, MarkovModel
from farfield.apps.genomics.tokenizer import BASES, Policy
from farfield.apps.training import UserError, atomic_write
from farfield.apps.training.report import print_table


def evaluate(
    *,
    run_folder: Path,
    fasta: str | None,
    bed: str | None,
    checkpoint: str | None,
    out: str | None,
    held_out: float,
    policy: Policy,
    seqlen: int | None,
    orders: list[int],
    memory_gb: float | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> dict[str, float]:
    """Print one table of held-out bits per base; the Markov models are trained on the rest of the genome.

    Args:
        run_folder: Where scored windows are noted, so that an interrupted run goes on.
        fasta, bed, held_out, policy: As of `read_genome`.
        checkpoint: Model in any format; None is the trained model of the package.
        out: JSON file to write; None is evaluation.json in the run folder.
        seqlen: Bases of a window; None is all that the model can read.
        orders: Orders of the Markov models, each with interpolation and both strands counted; none when empty.
        memory_gb: As of `score`.
        device, precision: As everywhere.
        seed: Noted; evaluation draws nothing at random.
        resume: Run folder to continue.
    Returns: Bits per base by name of the model.
    Raises: UserError: a file or setting is wrong. Interrupted: Ctrl-C came; what was read is noted.
    """
    if not isinstance(orders, list):
        raise UserError(f"orders={orders}: a list is accepted, for example orders=[3,8,11]")
    for order in orders:
        check_count("orders: order", order, 0, MAX_ORDER)
    target = result_path(out, run_folder / "evaluation.json")
    model = load_model(checkpoint, device)
    if seqlen is not None:
        check_count("seqlen", seqlen, 1, model.config.l_max - 1)
    seqlen = seqlen or model.config.l_max - 1
    train, valid = read_genome(fasta, bed, held_out, policy)
    windows = [ids for segment in valid for ids in cut_windows(segment.with_context(1), seqlen)]
    passes = Passes([Window(i, len(w), w.copy) for i, w in enumerate(windows)], model, precision, memory_gb)
    question = hashlib.sha256(f"{precision} {[len(w) for w in windows]}".encode() + weights_digest(model))
    for ids in windows:
        question.update(ids.tobytes())
    passes.tell()
    notes = Notes(run_folder, question.digest())
    nats, bases = _sums(passes, notes)
    bits = {"model": nats / bases / math.log(2), "uniform": 2.0} | markov_bits(train, valid, orders)
    result = {"bits_per_base": bits, "bases": int(bases), "windows": len(windows), "seqlen": seqlen}
    atomic_write(target, json.dumps(result, indent=1) + "\n")
    print_table(("model", "held-out bits per base"), [(name, f"{value:.4f}") for name, value in bits.items()])
    print(f"{int(bases):,} held-out bases; {target}")
    return bits


def _sums(passes: Passes, notes: Notes) -> tuple[float, float]:
    """Nats and bases of all windows; those noted by an earlier run are not read again."""
    done = notes.lines()
    with notes.open() as note:
        for i, targets, nats in passes.nats("evaluate", done):
            known = is_base(targets)
            if i not in done:
                note(i, {"nats": float(nats[known].sum(dtype=np.float64)), "bases": int(known.sum())})
    lines = notes.lines().values()
    return math.fsum(line["nats"] for line in lines), sum(line["bases"] for line in lines)


def codes(ids: Ids) -> Codes:
    """Tokens as Markov models read them: 0 to 3 for A, C, G, T."""
    return np.where(is_base(ids), ids - BASES[0], 4).astype(np.uint8)


def markov_bits(train: list[Segment], valid: list[Segment], orders: list[int]) -> dict[str, float]:
    """Held-out bits per base of Markov models of several orders, by name.

    A base at the start of a held-out segment has the training bases before it as context, as many as there are.
    """
    if not orders:
        return {}
    model = MarkovModel([codes(s.ids) for s in train], max(orders))
    nats = {k: [model.nats(codes(s.with_context(MAX_ORDER)), k)[-len(s.ids) :] for s in valid] for k in orders}
    return {f"Markov order {k}": float(np.nanmean(np.concatenate(v)) / np.log(2)) for k, v in nats.items()}
