"""The index beside a plain model of it: whatever is written, deleted, merged, moved and reopened, both say the same."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from farfield.apps.retrieval import maintain, postings
from farfield.apps.retrieval.bm25 import BM25
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.verify import differs_from_store, verify
from tests.apps.retrieval.fake_encoder import FakeEncoder

SIZES = {"FAN": 2, "MERGED_IN_WRITE": 40, "WORDS_AT_ONCE": 3}
WORDS = [f"word{i}" for i in range(12)]
texts = st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=40
)
ids = st.sampled_from([f"doc {i}" for i in range(9)]) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8
)
values = st.integers(-3, 3) | st.sampled_from(["a", "b", "ä\0"]) | st.booleans() | st.sampled_from([0.5, -1.0])
metadata = st.dictionaries(st.sampled_from(["x", "y"]), values | st.lists(values, max_size=3), max_size=2)
documents = st.builds(Document, id=ids, text=texts, title=texts, metadata=metadata)
filters_or_none = st.none() | st.dictionaries(
    st.sampled_from(["x", "y"]),
    values
    | st.dictionaries(st.sampled_from(["ne", "gte", "lt"]), values, min_size=1)
    | st.booleans().map(lambda there: {"exists": there}),
    max_size=2,
)


def matches(document: Document, filters: dict[str, Any]) -> bool:
    """What a filter means, in Python."""
    for key, wanted in filters.items():
        have = document.metadata.get(key, [])
        have = have if isinstance(have, list) else [have]
        for operator, value in (wanted if isinstance(wanted, dict) else {"eq": wanted}).items():
            alike = [v for v in have if isinstance(v, str) == isinstance(value, str)]
            if not {
                "eq": any(v == value for v in alike),
                "ne": not any(v == value for v in alike),
                "gte": any(operator == "gte" and v >= value for v in alike),
                "lt": any(operator == "lt" and v < value for v in alike),
                "exists": (len(have) > 0) == value,
            }[operator]:
                return False
    return True


class Index(RuleBasedStateMachine):
    """Rules on an index; `known` is what it has to hold."""

    @initialize()
    def create(self) -> None:
        self.folder = Path(tempfile.mkdtemp()) / "index"
        self.encoder = FakeEncoder()
        self.known: dict[str, Document] = {}
        # Few and small runs, so that these documents make many.
        self.sizes = [patch.object(postings, name, value) for name, value in SIZES.items()]
        for size in self.sizes:
            size.start()
        self.index = Collection.create(self.folder, self.encoder, merge_at=None)

    @rule(batch=st.lists(documents, min_size=1, max_size=6))
    def add(self, batch):
        last = {document.id: document for document in batch}
        added = self.index.add(batch)
        assert set(added.new) == {i for i in last if i not in self.known}
        assert set(added.unchanged) == {i for i, d in last.items() if i in self.known and self.known[i] == d}
        assert set(added.replaced) == set(last) - set(added.new) - set(added.unchanged)
        self.known |= last

    @rule(gone=st.lists(ids, max_size=4))
    def delete(self, gone):
        assert self.index.delete(gone) == len(set(gone) & set(self.known))
        for id in gone:
            self.known.pop(id, None)

    @rule()
    def merge(self):
        maintain.merge(self.index)

    @rule(kind=st.sampled_from(["flat", "hnsw", "auto"]))
    def build(self, kind):
        maintain.build(self.index, kind)

    @rule()
    def tidy(self):
        with maintain.alone(self.folder):
            postings.tidy(self.index.store)

    @rule()
    def compact(self):
        maintain.compact(self.index)

    @rule(salt=st.sampled_from(["one", "two"]))
    def migrate(self, salt):
        self.encoder = FakeEncoder(salt=salt)
        maintain.migrate(self.index, self.encoder)

    @rule()
    def reopen(self):
        self.index.close()
        self.index = Collection.open(self.folder, self.encoder, merge_at=None)

    @rule(
        query=texts,
        k=st.integers(1, 5),
        by=st.sampled_from(["best", "window", "whole"]),
        filters=filters_or_none,
    )
    def search(self, query, k, by, filters):
        vector = self.encoder.encode_queries([query])[0]
        scores = {}
        for id, document in self.known.items():
            if matches(document, filters or {}):
                made = self.encoder.encode([document.text])[0]
                every = {"whole": [made.whole], "window": list(made.windows), "best": [made.whole, *made.windows]}[by]
                scores[id] = max(float(v @ vector) for v in every)
        hits = self.index.search(query, k, mode="dense", by=by, filters=filters)
        best = sorted(scores.values(), reverse=True)[:k]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-5)
        for hit in hits:
            assert abs(scores[hit.id] - hit.score) < 1e-5
            assert hit.passage == self.known[hit.id].text[hit.start : hit.stop]
        assert len({hit.id for hit in hits}) == len(hits)

    @rule(query=texts, k=st.integers(1, 20), filters=filters_or_none)
    def search_words(self, query, k, filters):
        ids = list(self.known)
        model = BM25(f"{self.known[id].title}\n{self.known[id].text}" for id in ids)
        worth = {
            id: float(score)
            for id, score in zip(ids, model.scores(query), strict=True)
            if score > 0 and matches(self.known[id], filters or {})
        }
        hits = self.index.search(query, k, mode="bm25", filters=filters)
        # To the last bit, whatever runs the words lie in.
        assert [hit.bm25_score for hit in hits] == sorted(worth.values(), reverse=True)[:k]
        assert all(worth[hit.id] == hit.score for hit in hits)

    @rule(word=st.sampled_from(WORDS))
    def search_both(self, word):
        holds = {id for id, d in self.known.items() if word in (d.title + " " + d.text).split()}
        hits = self.index.search(word, 20)
        assert {hit.id for hit in hits if hit.bm25_score is not None} == holds
        assert len(hits) == min(20, len(self.known))

    @invariant()
    def same_documents(self):
        if hasattr(self, "index"):
            assert len(self.index) == len(self.known)
            for id in list(self.known)[:3]:
                assert self.index.get(id) == self.known[id]
            assert differs_from_store(self.index) == []

    def teardown(self):
        if hasattr(self, "index"):
            self.index.close()
            assert verify(self.folder) == []
            for size in self.sizes:
                size.stop()
            shutil.rmtree(self.folder.parent)


TestIndex = Index.TestCase
TestIndex.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
