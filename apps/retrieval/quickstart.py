"""`./run quickstart -- retrieval`: long documents, questions, and what each way is worth."""

from __future__ import annotations

import gzip
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from farfield.apps.cli.compose import composed
from farfield.apps.retrieval import metrics
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.encoder import TruncationWarning
from farfield.apps.retrieval.ingest import ingest
from farfield.apps.retrieval.metrics import Interval
from farfield.apps.retrieval.opening import open_index
from farfield.apps.training import RunFolder
from farfield.apps.training.report import Rows, print_table, write_report

DATA = Path(__file__).parent / "data"
DOCUMENTS, QUERIES = DATA / "pep_documents.jsonl.gz", DATA / "pep_queries.jsonl.gz"
QUESTIONS = (
    "how do I release a file or a lock when a generator is abandoned",
    "which random numbers are safe for passwords",
    "why pip refuses to install into the Python of the operating system",
)
PASSAGE = 160
KINDS = ("title", "abstract")
# Row to the index that it asks and the way in which it asks.
ROWS = {
    "BM25, whole text": ("windows", "bm25"),
    "MiniLM, first window": ("first", "dense"),
    "MiniLM, best window": ("windows", "dense"),
    "hybrid, the default": ("windows", "hybrid"),
}


class Worth(NamedTuple):
    """nDCG@10 of a row for each kind of query, and the median milliseconds of one."""

    ndcg: dict[str, Interval]
    ms: float


def main() -> None:
    """Ingest, ask, measure, report."""
    started = time.monotonic()
    run = RunFolder.create("retrieval", "quickstart")
    print(
        "64 Python enhancement proposals of 2,900 to 84,000 characters (public domain), titles and abstracts cut off.\n"
    )
    print("1/3  Into an index, window by window; and into a second one that reads beginnings alone.")
    indices = {name: run.path / f"{name}-index" for name in ("windows", "first")}
    _ingest(run, indices["windows"], "policy=chunk")
    _ingest(run, indices["first"], "policy=truncate")
    queries = read_queries()
    titles = {answer: query for kind, query, answer in queries if kind == "title"}
    with _open(indices["windows"]) as windows, _open(indices["first"]) as first:
        print("\n2/3  Questions in one's own words.")
        answers = [answer(windows, question, titles) for question in QUESTIONS]
        for question, title, passage in answers:
            print(f"     {question}?\n       {title}\n       ... {passage} ...")
        print(f"\n3/3  What each way is worth: {len(queries)} titles and abstracts, each to find its own text.")
        asked = {"windows": windows, "first": first}
        with warnings.catch_warnings():
            # Nine abstracts are longer than MiniLM reads; the report says how much that is.
            warnings.simplefilter("ignore", TruncationWarning)
            rows = {name: worth(asked[of], mode, queries) for name, (of, mode) in ROWS.items()}
    head = ("", *(f"nDCG@10, {kind}s" for kind in KINDS), "ms a query")
    cells = [(name, *(f"{found.ndcg[k].mean:.3f}" for k in KINDS), f"{found.ms:.1f}") for name, found in rows.items()]
    print_table(head, cells)
    said = [
        "64 Python enhancement proposals of 2,900 to 84,000 characters, found again by their titles and abstracts,"
        " which were cut out of the texts. MiniLM reads 254 tokens at once and is taken as it comes.",
        verdict(rows),
        "Few documents are easy to tell apart: README has the whole set of 725, where all scores are lower.",
    ]
    print(f"{said[1]}\n{said[2]}")
    report = run.path / "report.html"
    tables: Mapping[str, tuple[Sequence[str], Rows]] = {
        "Worth of a ranking": (head, cells),
        "Questions": (("question", "found", "passage"), answers),
    }
    write_report(report, "Searching in whole documents", said, tables, {})
    print(f"\nThe same on a page: farfield retrieval serve index={indices['windows']}")
    print(f"Report: {report}")
    print(f"The whole quickstart took {(time.monotonic() - started) / 60:.1f} minutes.")


def read_queries() -> list[tuple[str, str, str]]:
    """Kind, text and the id of the document that answers, of every query of the package."""
    with gzip.open(QUERIES, "rt", encoding="utf-8") as lines:
        return [(row["kind"], row["query"], row["answer"]) for row in map(json.loads, lines)]


def answer(index: Collection, question: str, titles: dict[str, str]) -> tuple[str, str, str]:
    """The question, the best document's id with its title, and the beginning of the passage found."""
    best = index.search(question, 1)[0]
    passage = " ".join(best.passage.split())
    return question, f"{best.id.replace('_', ' ')}, {titles[best.id]}", passage[:PASSAGE]


def worth(index: Collection, mode: str, queries: list[tuple[str, str, str]]) -> Worth:
    """nDCG@10 by kind with intervals, and the median time of a query, the encoder's share included."""
    values: dict[str, list[float]] = {kind: [] for kind in KINDS}
    took = []
    for kind, query, wanted in queries:
        began = time.perf_counter()
        hits = index.search(query, 10, mode=mode)
        took.append((time.perf_counter() - began) * 1e3)
        values[kind].append(metrics.ndcg([hit.id for hit in hits], [wanted]))
    return Worth({kind: metrics.bootstrap(of) for kind, of in values.items()}, float(np.median(took)))


def verdict(rows: dict[str, Worth]) -> str:
    """One sentence: what the windows gain over the beginning, and hybrid over BM25, with intervals of the means."""
    words, first, best, both = (rows[name].ndcg["abstract"] for name in ROWS)
    return (
        f"By abstracts: the first window alone reaches {_told(first)}, the best of all windows {_told(best)},"
        f" BM25 {_told(words)} and both together {_told(both)}."
    )


def _told(found: Interval) -> str:
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"


def _open(index: Path) -> Collection:
    return open_index(str(index), None, None, 0, "auto", "fp32")


def _ingest(run: RunFolder, index: Path, policy: str) -> None:
    folder = run.path / f"ingest-{index.name}"
    folder.mkdir()
    settings = composed("retrieval", "ingest", [f"data={DOCUMENTS}", f"index={index}", policy])
    ingest(run_folder=folder, **settings)


if __name__ == "__main__":
    main()
