"""Bases to token ids and back, with the ids of the published HyenaDNA models.

| id | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
| token | [CLS] | [SEP] | [BOS] | [MASK] | [PAD] | [RESERVED] | [UNK] | A | C | G | T | N |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from farfield.apps.training.errors import UserError

Ids = NDArray[np.uint8]
Policy = Literal["upper", "strict", "ambiguous_n"]
Specials = Literal["none", "sep", "cls_sep"]
Side = Literal["left", "right"]

TOKENS = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N")
CLS, SEP, BOS, MASK, PAD, RESERVED, UNK, A, C, G, T, N = range(12)
BASES = (A, C, G, T)
AMBIGUOUS = b"RYKMSWBDHV"
# The id on the other strand; everything but A, C, G, T is its own complement.
COMPLEMENT: Ids = np.arange(256, dtype=np.uint8)
COMPLEMENT[[A, C, G, T]] = T, G, C, A


def _table(policy: Policy) -> bytes:
    table = np.full(256, UNK, np.uint8)
    for symbol, token in zip(b"ACGTN", (*BASES, N), strict=True):
        table[symbol] = token
        if policy != "strict":
            table[symbol | 0x20] = token
    if policy == "ambiguous_n":
        for symbol in AMBIGUOUS:
            table[[symbol, symbol | 0x20]] = N
    return table.tobytes()


class Tokenizer:
    """One token a character.

    Args:
        policy: What stands for a base. "upper": A, C, G, T, N in upper or lower case, all else is [UNK]. "strict":
            upper case only, as in the published code, where soft-masked sequence becomes [UNK]. "ambiguous_n": as
            "upper", and the IUPAC codes R Y K M S W B D H V become N.
    Raises: UserError: the policy does not exist.
    """

    def __init__(self, policy: Policy = "upper") -> None:
        if policy not in get_args(Policy):
            raise UserError(f"policy={policy!r}: accepted: {', '.join(get_args(Policy))}")
        self.policy = policy
        self._table = _table(policy)

    def encode(self, text: str | bytes, specials: Specials = "none", max_length: int | None = None) -> Ids:
        """Ids (L,) of a sequence.

        Args:
            text: The sequence; a character outside ASCII is [UNK].
            specials: "none"; "sep" appends [SEP], as pretraining did; "cls_sep" puts [CLS] before it too, as the
                published inference code does.
            max_length: Greatest length, special tokens included; the left part of the sequence is kept.
        """
        raw = text.encode("ascii", "replace") if isinstance(text, str) else text
        before, behind = {"none": ([], []), "sep": ([], [SEP]), "cls_sep": ([CLS], [SEP])}[specials]
        if max_length is not None:
            raw = raw[: max(max_length - len(before) - len(behind), 0)]
        ids = np.frombuffer(raw.translate(self._table), np.uint8)
        return np.concatenate([np.array(before, np.uint8), ids, np.array(behind, np.uint8)]) if behind else ids

    def unknown(self, text: str | bytes) -> dict[str, int]:
        """How often each symbol of a sequence becomes [UNK], the most frequent first."""
        raw = np.frombuffer(text.encode("ascii", "replace") if isinstance(text, str) else text, np.uint8)
        counts = np.bincount(raw, minlength=256)
        lost = [s for s in np.argsort(-counts, kind="stable") if counts[s] and self._table[s] == UNK]
        return {chr(s): int(counts[s]) for s in lost}

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Text of some ids; special tokens by their names."""
        known = len(TOKENS)
        if bad := [int(i) for i in ids if not 0 <= int(i) < known]:
            raise UserError(f"token id {bad[0]}: ids 0 to {known - 1} have a meaning")
        return "".join(TOKENS[int(i)] for i in ids)

    def pad(
        self, batch: Sequence[Ids], length: int | None = None, side: Side = "right"
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Sequences of different lengths as one array with its mask.

        Args:
            batch: Ids of each sequence.
            length: Columns of the array; the longest sequence when left out.
            side: Where [PAD] stands: "right", or "left" as in the published tokenizer.
        Returns: ids (B, L) and mask (B, L), True where a token is none of the padding.
        Raises: UserError: a sequence is longer than length.
        """
        longest = max(map(len, batch), default=0)
        length = longest if length is None else length
        if longest > length:
            raise UserError(f"a sequence of {longest} tokens does not fit into length={length}; cut it first")
        ids = np.full((len(batch), length), PAD, np.int64)
        mask = np.zeros((len(batch), length), np.bool_)
        for row, sequence in enumerate(batch):
            where = slice(0, len(sequence)) if side == "right" else slice(length - len(sequence), length)
            ids[row, where], mask[row, where] = sequence, True
        return ids, mask
