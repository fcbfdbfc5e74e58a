"""nDCG@10 of rankings on a task."""

from collections.abc import Sequence

import numpy as np

from farfield.apps.retrieval import metrics
from farfield.apps.retrieval.loco import Task


def score(task: Task, rankings: Sequence[Sequence[str]]) -> float:
    """Mean over the queries of a task; rankings are ids of documents."""
    pairs = zip(rankings, task.queries, strict=True)
    return float(np.mean([metrics.ndcg(r, q.relevant) for r, q in pairs]))


def named(task: Task, rankings: Sequence[Sequence[int]]) -> list[list[str]]:
    """Ids of the numbers of documents."""
    ids = list(task.documents)
    return [[ids[i] for i in found] for found in rankings]
