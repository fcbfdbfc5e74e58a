"""Windows of a text: runs of tokens that an encoder reads at once, with the characters they stand for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from heapq import nlargest
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval.bm25 import folded
from farfield.apps.training.errors import UserError

# Words of a query that decide which window fits.
DECIDING = 16


class Span(NamedTuple):
    """Tokens [first, last) of a text and its characters [start, end)."""

    first: int
    last: int
    start: int
    end: int


def check_window(size: int, overlap: int, longest: int) -> None:
    """Refuse windows that an encoder cannot read or that make no progress.

    Args:
        size, overlap: Tokens of a window, and tokens that it shares with the next.
        longest: Most tokens that the encoder reads.
    Raises: UserError: size is not in 1..longest, or overlap not in 0..size-1.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= longest:
        raise UserError(f"window={size}: a whole number from 1 to {longest} is accepted, the tokens this encoder reads")
    if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap < size:
        raise UserError(f"overlap={overlap}: a whole number from 0 to {size - 1} is accepted (window={size})")


def cut(offsets: NDArray[np.int64], n_chars: int, size: int, overlap: int = 0) -> list[Span]:
    """Windows of `size` tokens, each beginning `size - overlap` tokens after the one before; the last may be shorter.

    Every token is in a window. The characters of a window go from its first token to its last: what stands between two
    windows is white space, or what the tokenizer drops.

    Args:
        offsets: Characters [start, end) of each token (n, 2).
        n_chars: Characters of the text; a text without tokens is one window over all of it.
        size, overlap: In tokens, 0 <= overlap < size.
    Returns: At least one window.
    Complexity: O(n / (size - overlap)).
    """
    n = len(offsets)
    if n == 0:
        return [Span(0, 0, 0, n_chars)]
    spans = []
    for first in range(0, max(n - overlap, 1), size - overlap):
        last = min(first + size, n)
        spans.append(Span(first, last, int(offsets[first, 0]), int(offsets[last - 1, 1])))
    return spans


def fullest(text: str, windows: Sequence[tuple[int, int]], worth: Mapping[str, float]) -> int:
    """Number of the window whose words are worth most; the first of equals.

    Args:
        windows: Characters [start, end), at least one.
        worth: Of each word that counts, as `bm25.words` gives it; the sixteen that are worth most decide, and of
            these those that are worth more than a tenth of the first.
    """
    parts = [folded(text[start:end]) for start, end in windows]
    starts = list(accumulate((len(part) + 1 for part in parts), initial=0))
    joined = "\n".join(parts)
    sums = [0.0] * len(parts)
    least = max(worth.values(), default=0.0) / 10
    for word, value in nlargest(DECIDING, worth.items(), key=itemgetter(1)):
        at = joined.find(word) if value > least else -1
        while at >= 0:
            end = at + len(word)
            # Not as a part of a longer word.
            if not joined[max(at - 1, 0) : at].isalnum() and not joined[end : end + 1].isalnum():
                window = bisect_right(starts, at) - 1
                sums[window] += value
                end = starts[window + 1]
            at = joined.find(word, end)
    return sums.index(max(sums))
