"""BM25 over texts in memory: the row that every encoder has to beat."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from farfield.apps.training.errors import UserError

WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits of any script."""
    return WORD.findall(text.lower())


class BM25:
    """Scores of all texts for a query; the words of a query count once.

        score(d) = sum_w idf(w) tf (k1 + 1) / (tf + k1 (1 - b + b |d| / mean |d|))
        idf(w)   = ln(1 + (N - df + .5) / (df + .5))

    Args:
        texts: Documents.
        k1: How soon further occurrences of a word stop to count, >= 0.
        b: How much long texts are held back, 0 to 1.
    Raises: UserError: k1 or b is out of range.
    Complexity: O(words of all texts) once; a query is O(postings of its words).
    Source: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond".
    """

    def __init__(self, texts: Iterable[str], *, k1: float = 1.2, b: float = 0.75) -> None:
        if not k1 >= 0 or not 0 <= b <= 1:
            raise UserError(f"k1={k1} b={b}: k1 from 0 on and b from 0 to 1 are accepted")
        postings: dict[str, tuple[list[int], list[int]]] = {}
        lengths = []
        for i, text in enumerate(texts):
            counts = Counter(words(text))
            lengths.append(counts.total())
            for word, count in counts.items():
                where, times = postings.setdefault(word, ([], []))
                where.append(i)
                times.append(count)
        self._n = len(lengths)
        length = np.asarray(lengths, dtype=np.float64)
        # Texts without a word have no mean length, and no postings either.
        slow = k1 * (1 - b + b * length / max(float(length.mean()), 1.0)) if lengths else length
        self._weights = {word: self._weight(*posting, slow, k1) for word, posting in postings.items()}

    def _weight(
        self, where: Sequence[int], times: Sequence[int], slow: NDArray[np.float64], k1: float
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        at = np.asarray(where, dtype=np.int32)
        tf = np.asarray(times, dtype=np.float64)
        idf = math.log(1 + (self._n - len(at) + 0.5) / (len(at) + 0.5))
        return at, idf * tf * (k1 + 1) / (tf + slow[at])

    def scores(self, query: str) -> NDArray[np.float64]:
        """Scores of all texts (n,), 0 where no word of the query occurs."""
        total = np.zeros(self._n)
        for word in dict.fromkeys(words(query)):
            if word in self._weights:
                at, weight = self._weights[word]
                total[at] += weight
        return total
