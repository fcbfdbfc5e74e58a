"""mteb scores our encoder and our index with our own numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farfield.apps.retrieval import loco, metrics, ranking
from farfield.apps.retrieval.encoder import load_encoder
from tests.apps.retrieval import tiny_encoder

mteb = pytest.importorskip("mteb")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents and queries of drawn words: no ranking of them is perfect."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)

    def drawn(n: int) -> str:
        return " ".join(rng.choice(tiny_encoder.WORDS, n))

    documents = [{"pid": f"d{i}", "passage": drawn(int(rng.integers(3, 60)))} for i in range(30)]
    queries = [
        {"qid": f"q{i}", "query": drawn(4), "answer_pids": [f"d{j}" for j in rng.choice(30, 1 + i % 3, replace=False)]}
        for i in range(40)
    ]
    for kind, rows in (("queries", queries), ("documents", documents)):
        (folder / f"harbour_{kind}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_encoder(tiny_encoder.make(tmp_path_factory.mktemp("encoder")), device="cpu")


def scores(model: Any, root: Path) -> dict[str, float]:
    from farfield.apps.retrieval.mteb_task import mteb_tasks

    (task,) = mteb_tasks(root)
    assert task.metadata.name == "LoCo-harbour"
    result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False, encode_kwargs={})
    return dict(result.task_results[0].scores["test"][0])


def expected(root: Path, rankings: Any) -> dict[str, float]:
    task = loco.load(root, "harbour")
    numbers = {pid: i for i, pid in enumerate(task.documents)}
    pairs = [(r, {numbers[p] for p in q.relevant}) for r, q in zip(rankings, task.queries, strict=True)]
    return {
        "ndcg_at_10": float(np.mean([metrics.ndcg(r, wanted) for r, wanted in pairs])),
        "recall_at_10": float(np.mean([metrics.recall(r, wanted, 10) for r, wanted in pairs])),
    }


def close(found: dict[str, float], wanted: dict[str, float]) -> bool:
    # mteb writes five digits.
    return all(found[name] == pytest.approx(value, abs=2e-5) for name, value in wanted.items())


def test_the_encoder_has_the_score_of_whole_documents(root: Path, encoder: Any) -> None:
    from farfield.apps.retrieval.mteb_encoder import MtebEncoder

    task = loco.load(root, "harbour")
    queries = encoder.encode_queries([q.text for q in task.queries])
    documents = encoder.encode(list(task.documents.values()))
    wanted = expected(root, ranking.by_whole(queries, documents))
    assert 0.05 < wanted["ndcg_at_10"] < 0.95
    assert close(scores(MtebEncoder(encoder), root), wanted)
    first = expected(root, ranking.by_first_window(queries, documents))
    assert first != wanted
    assert close(scores(MtebEncoder(encoder, policy="truncate"), root), first)


@pytest.mark.parametrize(("by", "ranked"), [("best", ranking.by_any_vector), ("window", ranking.by_best_window)])
def test_the_index_has_the_score_of_the_best_vector(
    by: str, ranked: Any, root: Path, encoder: Any, tmp_path: Path
) -> None:
    from mteb.models import SearchProtocol

    from farfield.apps.retrieval.mteb_index import MtebIndex

    task = loco.load(root, "harbour")
    queries = encoder.encode_queries([q.text for q in task.queries])
    documents = encoder.encode(list(task.documents.values()))
    index = MtebIndex(encoder, mode="dense", by=by, folder=tmp_path)
    assert isinstance(index, SearchProtocol)
    assert close(scores(index, root), expected(root, ranked(queries, documents)))
    index.close()


def test_the_index_has_the_score_of_its_own_search(root: Path, encoder: Any) -> None:
    from farfield.apps.retrieval.collection import Collection
    from farfield.apps.retrieval.mteb_index import MtebIndex

    index = MtebIndex(encoder)
    found = scores(index, root)
    assert isinstance(index._collection, Collection)
    task = loco.load(root, "harbour")
    numbers = {pid: i for i, pid in enumerate(task.documents)}
    hits = index._collection.search_many([q.text for q in task.queries], 30, mode="hybrid")
    assert close(found, expected(root, [[numbers[h.id] for h in one] for one in hits]))
    queries, texts = [q.text for q in task.queries], list(task.documents.values())
    words = ranking.by_words(queries, texts, k1=1.2, b=0.75, first=None)
    dense = ranking.by_any_vector(encoder.encode_queries(queries), encoder.encode(texts))
    assert close(found, expected(root, ranking.hybrid(words, dense, metrics.FUSION_K, metrics.FUSION_WEIGHTS)))
    index.close()
