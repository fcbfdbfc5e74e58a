"""`./run quickstart`: HyenaDNA on the E. coli genome of the package, from nothing to a report, on any machine."""

from __future__ import annotations

import io
import resource
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from farfield.apps.cli.compose import composed
from farfield.apps.genomics.datamodule import read_genome
from farfield.apps.genomics.evaluate import evaluate
from farfield.apps.genomics.figures import loss_figure, window_figure
from farfield.apps.genomics.inference import forward_long
from farfield.apps.genomics.likelihood import load_model, progress_bar
from farfield.apps.genomics.pretrain import pretrain
from farfield.apps.genomics.tokenizer import C, G
from farfield.apps.training import RunFolder
from farfield.apps.training.report import print_table, write_report

WINDOW = 1_048_576
ORDERS = [3, 8, 11]


def main() -> None:
    """Train, evaluate, read a million bases, report."""
    started = time.monotonic()
    run = RunFolder.create("genomics", "quickstart")
    print("HyenaDNA on the genome of E. coli K-12 MG1655 (4,639,675 bases, the last tenth held out).\n")
    print("1/3  A model of 436,096 parameters learns from random windows of 1,024 bases.")
    settings = composed("genomics", "pretrain", ["experiment=quickstart"])
    pretrain(run_folder=run.path / "pretrain", **settings)
    lines = RunFolder(run.path / "pretrain").metrics()
    tokens_per_s = float(np.median([line["units/s"] for line in lines if line.get("units/s")]))

    print("\n2/3  Held-out bits per base: it, the packaged models, and Markov models of the same training bases.")
    bits = _evaluate(run.path / "trained", str(run.path / "pretrain" / "model"), 1024, ORDERS)
    ours = {"ours, just trained": bits.pop("model")}
    for name in ("hyenadna-ecoli-1k", "hyenadna-ecoli-1m"):
        seqlen = 1024 if name.endswith("1k") else None
        ours[f"ours, {name}"] = _evaluate(run.path / name, name, seqlen, [])["model"]

    print(f"\n3/3  hyenadna-ecoli-1m reads {WINDOW:,} consecutive bases in one pass.")
    nats, gc, start, held_out, seconds = _read_window()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    rows: list[tuple[str, ...]] = [(name, f"{value:.4f}", "") for name, value in (ours | bits).items()]
    rows[0] = (*rows[0][:2], f"{tokens_per_s:,.0f} tokens/s, training")
    rows.insert(len(ours), (f"{WINDOW:,} bases at once", "", f"{WINDOW / seconds:,.0f} tokens/s, {seconds:.1f} s"))
    rows.append(("peak memory", "", f"{peak / 1e9:.2f} GB"))
    head = ("E. coli K-12", "held-out bits per base", "speed, memory")
    print_table(head, rows)
    verdict = _verdict(ours["ours, just trained"], bits)
    print(verdict)
    known = [line for line in lines if line.get("train/bits_per_base")]
    validated = [line for line in lines if line.get("val/bits_per_base")]
    curves = {
        "training": ([line["tokens"] for line in known], [line["train/bits_per_base"] for line in known]),
        "held out": ([line["tokens"] for line in validated], [line["val/bits_per_base"] for line in validated]),
    }
    figures = {
        "Bits per base while the model learns.": loss_figure(curves, bits),
        f"Bits per base of hyenadna-ecoli-1m and GC along {WINDOW:,} bases read in one pass.": window_figure(
            nats / np.log(2), gc, start, held_out
        ),
    }
    report = run.path / "report.html"
    write_report(report, "farfield quickstart: HyenaDNA on E. coli", [verdict], {"": (head, rows)}, figures)
    print(f"\nReport: {report}\nThe whole quickstart took {(time.monotonic() - started) / 60:.1f} minutes.")


def _evaluate(folder: Path, checkpoint: str, seqlen: int | None, orders: list[int]) -> dict[str, float]:
    """What `farfield genomics evaluate` says of one model."""
    settings = composed("genomics", "evaluate", [f"checkpoint={checkpoint}", f"seqlen={seqlen or 'null'}"])
    folder.mkdir()
    # One table at the end, not one a model.
    with redirect_stdout(io.StringIO()):
        return evaluate(run_folder=folder, **(settings | {"orders": orders}))


def _read_window() -> tuple[NDArray[np.float32], NDArray[np.bool_], int, int, float]:
    """Nats and GC along the genome's last window, where it and the held-out part start, and the seconds it took."""
    (train,), (valid,) = read_genome(None, None, 0.1)
    ids = np.concatenate([train.ids, valid.ids])
    start = len(ids) - WINDOW
    window = ids[start:]
    model = load_model(None, "cpu")
    began = time.monotonic()
    with progress_bar("read", WINDOW, "bases") as advance:
        done = 0

        def progress(part: int, parts: int) -> None:
            nonlocal done
            advance(WINDOW * part // parts - done)
            done = WINDOW * part // parts

        tokens = torch.from_numpy(window.astype(np.int64))[None]
        likelihood = forward_long(model, tokens, want="log_likelihood", memory_limit=3 * 10**9, progress=progress)
    seconds = time.monotonic() - began
    # The first base has nothing before it to be predicted from.
    nats = np.concatenate([[np.nan], -likelihood[0].numpy()]).astype(np.float32)
    return nats, np.isin(window, (C, G)), start, valid.start, seconds


def _verdict(bits: float, baselines: dict[str, float]) -> str:
    """One honest sentence: which baselines the model just trained beats, and which it does not."""
    beaten = ", ".join(name for name, value in baselines.items() if bits < value)
    lost = ", ".join(name for name, value in baselines.items() if bits >= value)
    said = [f"it beats {beaten}" if beaten else "", f"it does not beat {lost}" if lost else ""]
    return f"The model just trained reaches {bits:.4f} held-out bits per base: {'; '.join(filter(None, said))}."


if __name__ == "__main__":
    main()
