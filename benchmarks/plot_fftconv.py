"""Time over the byte floor against L, from bench_fftconv's rows: `python -m benchmarks.plot_fftconv MACHINE SVG`."""

import sys
from pathlib import Path

from benchmarks.harness import ROOT, read_rows

# (provider, pass) -> label and line
LINES = {
    ("cuda-fp32", "fwd"): ("farfield, forward", "C0-o"),
    ("cuda-fp32", "bwd"): ("farfield, backward", "C0--s"),
    ("torch-rfft", "fwd"): ("torch rfft, forward", "C3-o"),
    ("torch-rfft", "bwd"): ("torch rfft, backward", "C3--s"),
    ("flashfftconv", "fwd"): ("FlashFFTConv, forward", "C2-o"),
    ("flashfftconv", "bwd"): ("FlashFFTConv, backward", "C2--s"),
}


def points(records: list[dict[str, str]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(L, time over floor) by provider and pass: bf16, scaled, the filter transformed in every call."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for record in records:
        sizes = dict(pair.split("=") for pair in record["shape"].split())
        if record["dtype"] == "bf16" and record["p50_ms"] and not {"scaled", "cached"} & set(sizes):
            ratio = float(record["p50_ms"]) / float(record["floor_ms"])
            found.setdefault((record["provider"], record["pass"]), []).append((int(sizes["L"]), ratio))
    return {key: sorted(some) for key, some in found.items() if key in LINES}


def draw(machine: str, path: Path) -> None:
    """The plot of benchmarks/results/<machine>/fftconv.csv."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    records = read_rows(ROOT / "benchmarks" / "results" / machine / "fftconv.csv")
    figure, axes = plt.subplots(figsize=(7, 4))
    for key, some in sorted(points(records).items(), key=lambda item: list(LINES).index(item[0])):
        label, line = LINES[key]
        axes.plot(*zip(*some, strict=True), line, label=label, markersize=4)
    axes.set(xscale="log", yscale="log", xlabel="L", ylabel="time / byte floor")
    axes.set_xticks([1 << m for m in range(7, 23, 3)], [f"{1 << m:,}" for m in range(7, 23, 3)])
    axes.set_xticks([], minor=True)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_title(f"causal, both gates, bf16, filter transformed in every call ({machine})", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(True, which="major", alpha=0.3)
    figure.tight_layout()
    # Neither the date nor random names: the same rows give the same file.
    mpl.rcParams["svg.hashsalt"] = "farfield"
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


if __name__ == "__main__":
    draw(sys.argv[1], Path(sys.argv[2]))
