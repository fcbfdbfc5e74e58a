"""BM25: what a word is, what it is worth, and the scores of texts in memory. `postings` ranks an index by the same."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from farfield.apps.training.errors import UserError

K1, B = 1.2, 0.75
# A longer run of letters and digits (a key, a picture as text) is cut; a query is cut alike.
LONGEST = 128
WORD = re.compile(rf"[^\W_]{{1,{LONGEST}}}")
# Bytes of ASCII that are no letter or digit, as spaces.
SPACED = bytes(c if c > 127 or chr(c).isalnum() else 32 for c in range(256))
# Characters below the first combining mark, and quotes, dashes and symbols, are folded one by one.
ALONE_BELOW, SYMBOLS = 0x300, (0x2000, 0x2BFF)
MARKS = re.compile("[\u0300-\u036f]+")
MARK_BYTES = (b"\xcc", b"\xcd")
# A query as long as a document costs as much as it has different words.
MAX_WORDS = 1024


def folded(text: str) -> str:
    """Lower case without accents and ligatures: what two spellings of a word have in common."""
    text = text.lower()
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKD", text)
    # Marks begin with one of two bytes: a look for these is far quicker than the pattern.
    data = text.encode(errors="surrogatepass")
    if any(byte in data for byte in MARK_BYTES):
        text = MARKS.sub("", text)
    return unicodedata.normalize("NFC", text)


def aligned(text: str) -> str | None:
    """Words as of `folded`, each character in its place; None where that cannot be had.

    Most texts are ASCII but for some accents and quotes: then it is far quicker than `folded`.
    """
    if text.isascii():
        return text.lower()
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").copy()
    at = np.flatnonzero(codes > 127)
    kinds, which = np.unique(codes[at], return_inverse=True)
    places = [_in_place(int(code)) for code in kinds]
    if None in places:
        return None
    codes[at] = np.array(places, np.uint32)[which]
    return codes.tobytes().decode("utf-32-le").lower()


@lru_cache(4096)
def _in_place(code: int) -> int | None:
    """The one character that stands for another where words are looked for: its letter, or a space for no letter."""
    # Letters from here on may depend on their neighbours.
    if code >= ALONE_BELOW and not SYMBOLS[0] <= code <= SYMBOLS[1]:
        return None
    letters = folded(chr(code))
    if not any(one.isalnum() for one in letters):
        return ord(" ")
    return ord(letters) if len(letters) == 1 and letters == letters.lower() else None


def words(text: str) -> list[str]:
    """Runs of letters and digits of any script, lower case, without accents."""
    found = _split(text)
    return found if max(map(len, found), default=0) <= LONGEST else WORD.findall(folded(text))


def counts(text: str) -> Counter[str]:
    """How often each of `words` occurs."""
    found = Counter(_split(text))
    return found if max(map(len, found), default=0) <= LONGEST else Counter(WORD.findall(folded(text)))


def _split(text: str) -> list[str]:
    """`words`, where none is too long."""
    there = aligned(text)
    if there is None:
        return WORD.findall(folded(text))
    # Several times as quick as the pattern; what lies above ASCII now is letters.
    return there.encode().translate(SPACED).decode().split()


def query_words(text: str) -> list[str]:
    """Different words of a query in their order, at most 1,024."""
    found: dict[str, None] = {}
    for match in WORD.finditer(folded(text)):
        found[match.group()] = None
        if len(found) == MAX_WORDS:
            break
    return list(found)


def rarity(n: int, df: int) -> float:
    """ln(1 + (n - df + .5) / (df + .5)) of a word that df of n documents hold."""
    return math.log(1 + (n - df + 0.5) / (df + 0.5))


def slowness(lengths: NDArray[np.floating], mean: float, k1: float = K1, b: float = B) -> NDArray[np.float64]:
    """k1 (1 - b + b |d| / mean |d|): how much further occurrences of a word in a document count less."""
    # Texts without a word have no mean length, and no words to score either.
    return np.asarray(k1 * (1 - b + b * lengths / max(mean, 1.0)), np.float64)


def weights(
    rarities: float | NDArray[np.float64], tf: NDArray[np.floating], slow: NDArray[np.float64], k1: float = K1
) -> NDArray[np.float64]:
    """What a word adds to the score of each document that holds it.

    Args:
        rarities: `rarity` of the word, or of each of many (n,).
        tf: Occurrences in each document that holds it (n,).
        slow: `slowness` of these documents (n,).
    Returns: idf tf (k1 + 1) / (tf + slow), (n,).
    """
    return np.asarray(rarities * tf * (k1 + 1) / (tf + slow), np.float64)


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

    def __init__(self, texts: Iterable[str], *, k1: float = K1, b: float = B) -> None:
        if not k1 >= 0 or not 0 <= b <= 1:
            raise UserError(f"k1={k1} b={b}: k1 from 0 on and b from 0 to 1 are accepted")
        postings: dict[str, tuple[list[int], list[int]]] = {}
        lengths = []
        for i, text in enumerate(texts):
            found = counts(text)
            lengths.append(found.total())
            for word, count in found.items():
                where, times = postings.setdefault(word, ([], []))
                where.append(i)
                times.append(count)
        self._n = len(lengths)
        slow = slowness(np.asarray(lengths, np.float64), sum(lengths) / max(self._n, 1), k1, b)
        self._weights: dict[str, tuple[NDArray[np.int32], NDArray[np.float64]]] = {}
        for word, (where, times) in postings.items():
            at = np.asarray(where, np.int32)
            self._weights[word] = at, weights(rarity(self._n, len(where)), np.asarray(times, np.float64), slow[at], k1)

    def scores(self, query: str) -> NDArray[np.float64]:
        """Scores of all texts (n,), 0 where no word of the query occurs."""
        total = np.zeros(self._n)
        for word in query_words(query):
            if word in self._weights:
                at, weight = self._weights[word]
                total[at] += weight
        return total
