"""What goes into an index and what comes out: documents, hits, and the rules for both."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from farfield.apps.training.errors import UserError

MAX_ID = 512
MAX_METADATA = 65_536
SCALARS = (str, int, float, bool)
# Above it SQLite's whole numbers end.
WHOLE = 2**63


@dataclass(frozen=True)
class Document:
    """A document as its owner gives it.

    Args:
        id: 1 to 512 characters, none of them a control character.
        text: What is searched; windows are counted in its characters.
        title: Shown with a hit and searched by BM25.
        metadata: Names to text, numbers, true or false, or lists of these; filters ask for them.
        source: Where it was read from; no part of what decides whether it changed.
    Raises: UserError: something of it cannot be kept.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not 1 <= len(self.id) <= MAX_ID:
            raise UserError(f"id {self.id!r:.80}: a text of 1 to {MAX_ID} characters is accepted")
        if any(ord(c) < 32 or ord(c) == 127 for c in self.id):
            raise UserError(f"id {self.id!r:.80}: control characters are not accepted in an id")
        for name in ("id", "text", "title", "source"):
            check_text(f"{name} of document {self.id!r:.80}", getattr(self, name))
        _check_metadata(self.id, self.metadata)

    @property
    def metadata_json(self) -> str:
        """Canonical JSON of the metadata: sorted keys, no spaces."""
        return canonical(self.metadata)

    @property
    def digest(self) -> bytes:
        """SHA-256 of id, title, text and metadata: equal where nothing changed."""
        return digest_of(self.id, self.title, self.text, self.metadata_json)


@dataclass(frozen=True)
class Hit:
    """One document of an answer, with the window that fits best.

    Args:
        score: What the order is by: a cosine (dense), BM25, or the sum of reciprocal ranks (hybrid).
        whole_score: Cosine of query and whole document; None where no query vector was made.
        window_score: Cosine of query and the best window.
        bm25_score: BM25 of the document; None where words were not asked for or do not occur.
        start, stop: The best window, characters of the text.
        passage: That window's text.
    """

    id: str
    title: str
    metadata: dict[str, Any]
    source: str
    score: float
    whole_score: float | None
    window_score: float | None
    bm25_score: float | None
    start: int
    stop: int
    passage: str


@dataclass(frozen=True)
class Added:
    """What a call of add or put did: ids new, replaced, unchanged, and those of which some text is in no vector."""

    new: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    truncated: tuple[str, ...] = ()


def digest_of(id: str, title: str, text: str, metadata_json: str) -> bytes:
    """SHA-256 of the parts, each with its length before it, so that no two documents run together."""
    digest = hashlib.sha256()
    for part in (id, title, text, metadata_json):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def check_text(what: str, text: Any) -> None:
    """Raises UserError unless it is text that UTF-8 can hold."""
    if not isinstance(text, str):
        raise UserError(f"{what}: {type(text).__name__} came, text is accepted")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what}: character {error.start} is half a surrogate pair; decode the source again as UTF-8"
        ) from None


def _check_metadata(id: str, metadata: Mapping[str, Any]) -> None:
    where = f"metadata of document {id!r:.80}"
    if not isinstance(metadata, Mapping):
        raise UserError(f"{where}: {type(metadata).__name__} came, a mapping of names to values is accepted")
    for key, value in metadata.items():
        check_text(f"{where}, a name", key)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            check_scalar(f"{where}, {key}", one)
    if len(canonical(metadata)) > MAX_METADATA:
        raise UserError(f"{where}: more than {MAX_METADATA} characters; put long text into the document's text")


def check_scalar(where: str, value: Any) -> None:
    """Raises UserError unless the value is text, a finite number, true, false or null."""
    if value is None:
        return
    if not isinstance(value, SCALARS):
        raise UserError(
            f"{where}: {type(value).__name__} came; text, numbers, true, false or lists of these are accepted"
        )
    if isinstance(value, str):
        check_text(where, value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {value} is no number that JSON knows; leave it out")
    elif isinstance(value, int) and not -WHOLE <= value < WHOLE:
        raise UserError(f"{where}: {value} does not fit in 64 bits; give it as text")
