"""Our index as mteb's search: what users search is what is scored."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mteb.models import ModelMeta

from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document, Hit
from farfield.apps.retrieval.encoder import Encoder
from farfield.apps.retrieval.mteb_encoder import model_meta

# Documents that are encoded and committed together.
AT_ONCE = 256
MOST = 1000


class MtebIndex:
    """A collection behind mteb's SearchProtocol; every corpus gets a new one.

    Args:
        encoder: Of `load_encoder`, or any other.
        mode, by: As of `Collection.search`.
        folder: Where the collections go; None is a temporary folder that goes when this does.
        name: In mteb's results, after `farfield/`.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        mode: str = "hybrid",
        by: str = "best",
        folder: Path | None = None,
        name: str = "index",
    ) -> None:
        self._encoder, self._mode, self._by = encoder, mode, by
        self._temporary = tempfile.TemporaryDirectory(prefix="farfield-mteb-") if folder is None else None
        self._folder = Path(self._temporary.name) if self._temporary else Path(str(folder))
        self._collection: Collection | None = None
        self._count = 0
        self._meta = model_meta(encoder, f"{name}-{mode}")

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Name, revision and sizes."""
        return self._meta

    def index(self, corpus: Any, **how: Any) -> None:
        """Put a corpus (rows of id, title, text) into a new collection."""
        self.close()
        self._count += 1
        self._collection = Collection.create(self._folder / f"corpus-{self._count}", self._encoder)
        for at in range(0, len(corpus), AT_ONCE):
            rows = corpus[at : at + AT_ONCE]
            titles = rows.get("title") or [""] * len(rows["id"])
            parts = zip(rows["id"], titles, rows["text"], strict=True)
            self._collection.add([Document(id, text, title or "") for id, title, text in parts])

    def search(
        self, queries: Any, *, top_k: int, top_ranked: dict[str, list[str]] | None = None, **how: Any
    ) -> dict[str, dict[str, float]]:
        """Scores of the best documents of each query: {query id: {document id: score}}."""
        if self._collection is None:
            raise RuntimeError("search needs index first")
        ids, texts = list(queries["id"]), list(queries["text"])
        k = min(top_k, MOST, max(len(self._collection), 1))
        found = self._collection.search_many(texts, k, mode=self._mode, by=self._by)
        scores = {qid: _falling(hits) for qid, hits in zip(ids, found, strict=True)}
        if top_ranked is None:
            return scores
        return {qid: {d: s for d, s in scores[qid].items() if d in set(top_ranked[qid])} for qid in ids}

    def close(self) -> None:
        """Close the collection that is open."""
        if self._collection is not None:
            self._collection.close()
            self._collection = None


def _falling(hits: Sequence[Hit]) -> dict[str, float]:
    """Scores in the order of the hits. Equal ones are set apart by the least there is: mteb would order them by id."""
    scores: dict[str, float] = {}
    last = np.float32(np.inf)
    for hit in hits:
        last = min(np.float32(hit.score), np.nextafter(last, np.float32(-np.inf)))
        scores[hit.id] = float(last)
    return scores
