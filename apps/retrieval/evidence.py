"""Where in its document the answer stands, and the buckets that scores are reported by."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from farfield.apps.retrieval.bm25 import BM25
from farfield.apps.retrieval.loco import Task

# Upper ends in characters, about four a token.
LENGTHS = (2_000, 8_000, 32_000, 128_000)
LENGTH_NAMES = ("to 2k", "2k to 8k", "8k to 32k", "32k to 128k", "over 128k")
QUARTERS = ("first quarter", "second", "third", "last quarter")
# Characters of a passage, for evidence that no row of the data names.
PASSAGE = 1_000


def lengths(task: Task) -> list[str]:
    """Bucket of each query: characters of the document that answers it."""
    return [LENGTH_NAMES[bisect_left(LENGTHS, len(task.documents[q.relevant[0]]))] for q in task.queries]


def positions(task: Task) -> tuple[list[str], int]:
    """Bucket of each query: the quarter of its document where the evidence begins, and how many of them are estimated.

    Evidence that a row names counts as it stands. Elsewhere it is taken to be the passage of 1,000 characters of the
    answering document that BM25 among all passages likes best for the query: no encoder has a say.

    Complexity: as of BM25 over all documents.
    """
    wanted = {q.relevant[0] for q in task.queries if q.evidence is None}
    where: dict[str, tuple[int, int]] = {}
    passages: list[str] = []
    for pid, text in task.documents.items():
        if wanted and pid in wanted:
            where[pid] = (len(passages), -(-len(text) // PASSAGE))
        if wanted:
            passages += [text[at : at + PASSAGE] for at in range(0, len(text), PASSAGE)]
    model = BM25(passages)
    quarters = []
    for query in task.queries:
        pid = query.relevant[0]
        if query.evidence is None:
            first, count = where[pid]
            start = PASSAGE * int(np.argmax(model.scores(query.text)[first : first + count]))
        else:
            start = query.evidence[0]
        quarters.append(QUARTERS[min(3, 4 * start // max(len(task.documents[pid]), 1))])
    return quarters, sum(q.evidence is None for q in task.queries)


def by_bucket(values: Sequence[float], buckets: Sequence[str], names: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Mean and number of values in each bucket that has any, in the order of names."""
    means = {}
    for name in names:
        inside = [v for v, b in zip(values, buckets, strict=True) if b == name]
        if inside:
            means[name] = (float(np.mean(inside)), len(inside))
    return means
