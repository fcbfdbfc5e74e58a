"""Order-k Markov models of DNA, the baseline beside every language model.

Each order falls back on the one below by a Dirichlet prior, with a strength a_k chosen on training data alone:

    p_k(x | c) = (n(c x) + a_k p_{k-1}(x | c without its oldest base)) / (n(c) + a_k),   p_{-1} = 1/4

Source: MacKay and Peto 1995, "A hierarchical Dirichlet language model", Natural Language Engineering 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from farfield.apps.training.errors import UserError

Codes = NDArray[np.uint8]  # 0 to 3 for A, C, G, T; anything above is no base
Counts = NDArray[np.int32]  # (4^k, 4): context, next base
MAX_ORDER = 12
STRENGTHS = (0.5, 2.0, 8.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
TUNING_SHARE = 0.1


class MarkovModel:
    """Interpolated Markov model up to an order; lower orders serve where the context is shorter.

    Args:
        sequences: Training sequences as codes, each (L,).
        order: Greatest number of bases of context, 0 to 12.
        reverse_complement: Count the other strand too.
    Raises: UserError: the order is out of range, or there is no base to count.
    Complexity: O(order (L + 4^(order + 1))) time; the counts of order k take 16 * 4^k bytes.
    """

    def __init__(self, sequences: Sequence[Codes], order: int, *, reverse_complement: bool = True) -> None:
        if not 0 <= order <= MAX_ORDER:
            raise UserError(f"order={order}: Markov models of order 0 to {MAX_ORDER} are accepted")
        if not any((s < 4).any() for s in sequences):
            raise UserError("a Markov model needs training bases, none of A, C, G, T came")
        self.order = order
        cuts = [round(len(s) * (1 - TUNING_SHARE)) for s in sequences]
        inner = _strands([s[:n] for s, n in zip(sequences, cuts, strict=True)], reverse_complement)
        tuning = np.concatenate([_apart(s[n:]) for s, n in zip(sequences, cuts, strict=True)])
        self.strengths: list[float] = []
        p = np.full(len(tuning), 0.25, np.float32)
        for counts, (index, usable) in zip(_counts(inner, order), _contexts(tuning, order), strict=True):
            seen, total = _look_up(counts, index[usable], tuning[usable])
            tried = {a: (seen + a * p[usable]) / (total + a) for a in STRENGTHS}
            best = max(STRENGTHS, key=lambda a: np.log(tried[a]).sum(dtype=np.float64))
            p[usable] = tried[best]
            self.strengths.append(best)
        self.counts = list(_counts(_strands(sequences, reverse_complement), order))

    def nats(self, codes: Codes, order: int | None = None) -> NDArray[np.float32]:
        """-log p of each base given those before it, (L,); NaN where there is no base.

        Args:
            codes: The sequence (L,).
            order: Bases of context used; all of the model's when left out.
        """
        order = self.order if order is None else order
        p = np.where(codes < 4, np.float32(0.25), np.float32(np.nan))
        for k, (index, usable) in enumerate(_contexts(codes, order)):
            seen, total = _look_up(self.counts[k], index[usable], codes[usable])
            p[usable] = (seen + self.strengths[k] * p[usable]) / (total + self.strengths[k])
        out: NDArray[np.float32] = -np.log(p)
        return out

    def bits_per_base(self, codes: Codes, order: int | None = None, start: int = 0) -> float:
        """Mean bits of the bases from position start on; those before it are context only."""
        return float(np.nanmean(self.nats(codes, order)[start:].astype(np.float64)) / np.log(2))


def _strands(sequences: Sequence[Codes], both: bool) -> list[Codes]:
    other = [np.where(s < 4, 3 - s, s)[::-1].astype(np.uint8) for s in sequences if both]
    return [*sequences, *other]


def _apart(codes: Codes) -> Codes:
    """The sequence with a non-base behind it: no context reaches across two joined sequences."""
    return np.append(codes, np.uint8(4))


def _contexts(codes: Codes, order: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    """For k = 0 to order: the k bases before each position as a number, and where they and the base are bases.

    The number has the oldest base in its highest digit. The two arrays (L,) are the same at every k, changed in place.
    """
    index = np.zeros(len(codes), np.int32)
    known = codes < 4
    usable = known.copy()
    yield index, usable
    for k in range(1, order + 1):
        index[k:] += (codes[:-k].astype(np.int32) & 3) << (2 * (k - 1))
        usable[k - 1 : k] = False
        usable[k:] &= known[:-k]
        yield index, usable


def _counts(sequences: Sequence[Codes], order: int) -> Iterator[Counts]:
    """For k = 0 to order: how often each base follows each context."""
    for k, contexts in enumerate(zip(*(_contexts(codes, order) for codes in sequences), strict=True)):
        counts = np.zeros(4 ** (k + 1), np.int32)
        for codes, (index, usable) in zip(sequences, contexts, strict=True):
            counts += np.bincount(4 * index[usable] + codes[usable], minlength=len(counts)).astype(np.int32)
        yield counts.reshape(-1, 4)


def _look_up(counts: Counts, index: NDArray[np.int32], base: Codes) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """n(c x) and n(c) of some contexts and the bases behind them."""
    rows = counts[index]
    return rows[np.arange(len(rows)), base], rows.sum(1, dtype=np.int64)
