"""Windows of a text: runs of tokens that an encoder reads at once, with the characters they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval.bm25 import aligned, folded
from farfield.apps.training.errors import UserError

# Above what sums of values of words lose.
ROUNDING = 1e-9


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

    A word counts once for each window that it lies in whole. Words are looked for from the one that is worth most on,
    and only in windows that can still become the best.

    Args:
        windows: Characters [start, end), at least one; both rise.
        worth: Of each word that counts, as `bm25.words` gives it.
    """
    joined = aligned(text)
    if joined is None:
        # A folded text may have another length, so each window is folded for itself.
        parts = [folded(text[start:end]) for start, end in windows]
        begins = accumulate((len(part) + 1 for part in parts), initial=0)
        windows = [(begin, begin + len(part)) for begin, part in zip(begins, parts, strict=False)]
        joined = "\n".join(parts)
    sums = [0.0] * len(windows)
    left, open_ = sum(worth.values()), list(range(len(windows)))
    for word, value in sorted(worth.items(), key=lambda one: -one[1]):
        for window in _holding(joined, windows, open_, word):
            sums[window] += value
        left -= value
        # Sums of floating point numbers, compared with more than their roundings to spare.
        least = max(sums) - left - ROUNDING
        open_ = [window for window in open_ if sums[window] >= least]
        if len(open_) == 1:
            break
    return sums.index(max(sums))


def _holding(text: str, windows: Sequence[tuple[int, int]], some: Sequence[int], word: str) -> Iterator[int]:
    """Which of some windows of a folded text hold a word whole, and not as a part of a longer one."""
    found = -1
    for window in some:
        start, stop = windows[window]
        # What was found beyond the window before may lie in this one, or beyond it too.
        at = found if found >= start else text.find(word, start)
        while 0 <= at <= stop - len(word) and not _alone(text, at, at + len(word)):
            at = text.find(word, at + 1)
        if at < 0:
            return
        found = at
        if at <= stop - len(word):
            yield window


def _alone(text: str, start: int, stop: int) -> bool:
    return not text[max(start - 1, 0) : start].isalnum() and not text[stop : stop + 1].isalnum()
