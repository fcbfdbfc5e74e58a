"""Documents out of files: text, Markdown, HTML, PDF, JSON lines.

A document's id is its file's path below the folder that was given, with /; in JSON lines the record's own.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from farfield.apps.retrieval.document import Document
from farfield.apps.training.errors import UserError

# Names that a field of a JSON record may have, the first that is there counts.
ID, TEXT, TITLE = ("id", "_id", "pid", "doc_id"), ("text", "passage", "contents", "content", "body"), ("title",)
# A tag that ends a line.
BLOCKS = frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote br dd div dl dt figcaption footer form h1 h2 h3 h4 h5 h6 header hr li main"
        " nav ol p pre section table td th title tr ul",
    )
)
UNSEEN = frozenset(("script", "style", "template", "noscript", "head"))


class Unreadable(UserError):
    """A file or record that is no document; the message names it."""


def files(path: Path) -> list[tuple[Path, str]]:
    """The files that can be read at a path, each with its id: the file itself, or all below a folder.

    Raises: UserError: the path is not there, or nothing in it can be read.
    """
    if path.is_file():
        return [(path, path.name)]
    if not path.is_dir():
        raise UserError(f"data={path}: there is no such file or folder")
    found = [(p, p.relative_to(path).as_posix()) for p in sorted(path.rglob("*")) if p.is_file() and kind_of(p)]
    # A link that leads out of the folder would take files in that nobody named.
    inside = [(p, id) for p, id in found if p.resolve().is_relative_to(path.resolve())]
    if not inside:
        raise UserError(f"data={path}: no file in it ends in {', '.join(sorted(PARSERS))}")
    return inside


def kind_of(path: Path) -> str | None:
    """The ending that decides the parser; None where no parser is known."""
    name = path.name.lower().removesuffix(".gz") if path.name.lower().endswith(".jsonl.gz") else path.name.lower()
    ending = Path(name).suffix
    return ending if ending in PARSERS else None


def documents(path: Path, id: str) -> Iterator[Document]:
    """Documents of one file.

    Raises: Unreadable: the file, or a record of it, is no document; it is named.
    """
    kind = kind_of(path)
    if kind is None:
        raise Unreadable(f"{path}: {', '.join(sorted(PARSERS))} are read; rename or convert it")
    try:
        yield from PARSERS[kind](path, id)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}") from error


def _text(path: Path, id: str) -> Iterator[Document]:
    text = _decoded(path.read_bytes(), path)
    yield Document(id, text, title=path.stem, source=str(path))


def _markdown(path: Path, id: str) -> Iterator[Document]:
    """The text as it stands: marks of Markdown are few, and windows point into what the author sees."""
    text = _decoded(path.read_bytes(), path)
    metadata: dict[str, Any] = {}
    front = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", text, flags=re.S)
    if front:
        pairs = (line.partition(":") for line in front[1].splitlines() if re.match(r"\w[\w-]*:", line))
        metadata = {key.strip(): value.strip().strip("\"'") for key, _, value in pairs if value.strip()}
        text = text[front.end() :]
    heading = re.search(r"^#\s+(.+?)\s*#*$", text, flags=re.M)
    title = metadata.pop("title", "") or (heading[1] if heading else path.stem)
    yield Document(id, text, title=title, metadata=metadata, source=str(path))


class _Page(HTMLParser):
    """Collects what a reader of the page would see, a line a block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self._hidden: list[str] = []
        self._in_title = False
        self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            self._hidden.clear()
        if tag in UNSEEN:
            self._hidden.append(tag)
        self._in_title = tag == "title" and not self.title
        self._pre += tag == "pre"
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        if tag == "title":
            self._in_title = False
        self._pre -= tag == "pre" and self._pre > 0
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._hidden:
            self.parts.append(data if self._pre else re.sub(r"\s+", " ", data))


def _html(path: Path, id: str) -> Iterator[Document]:
    raw = path.read_bytes()
    declared = re.search(rb"charset=[\"']?([\w-]+)", raw[:2048])
    page = _Page()
    page.feed(_decoded(raw, path, declared[1].decode() if declared else None))
    page.close()
    text = re.sub(r" *\n *", "\n", "".join(page.parts))
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    title = re.sub(r"\s+", " ", "".join(page.title)).strip()
    yield Document(id, text, title=title or path.stem, source=str(path))


def _pdf(path: Path, id: str) -> Iterator[Document]:
    import logging

    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    # What it says about oddities of a file is no news to who ingests thousands.
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable(f"{path}: the PDF needs a password; store it without one")
        pages = [page.extract_text() or "" for page in reader.pages]
        about = reader.metadata
        title = (about.title or "") if about else ""
    except Unreadable:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Unreadable(f"{path}: no readable PDF ({type(error).__name__}: {error})") from error
    # A page that extracts half a surrogate pair is still worth its other characters.
    text = "\n\n".join(pages).encode("utf-8", "replace").decode()
    if not text.strip():
        raise Unreadable(f"{path}: the PDF holds no text ({len(pages)} pages, scanned?); run OCR over it first")
    title = str(title).encode("utf-8", "replace").decode().strip()
    yield Document(id, text, title=title or path.stem, metadata={"pages": len(pages)}, source=str(path))


def _jsonl(path: Path, id: str) -> Iterator[Document]:
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield from_record(_record(line, f"{path}, line {number}"), f"{path}, line {number}")
        except (gzip.BadGzipFile, EOFError) as error:
            raise Unreadable(f"{path}: no readable gzip file ({error})") from error


def _record(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise Unreadable(f"{where}: no JSON ({error})") from error
    except RecursionError as error:
        raise Unreadable(f"{where}: JSON that is nested too deeply") from error


def from_record(record: Any, where: str) -> Document:
    """A document of a JSON record: id, text and title by their names, `metadata` and all other fields as metadata.

    Raises: Unreadable: a field is missing or of another type; the message begins with `where`.
    """
    if not isinstance(record, dict):
        raise Unreadable(f"{where}: {type(record).__name__} came, an object with id and text is accepted")
    fields = dict(record)
    id, text, title = (_taken(fields, names) for names in (ID, TEXT, TITLE))
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)
    if not isinstance(id, str) or not isinstance(text, str):
        missing = "id" if not isinstance(id, str) else "text"
        names = ID if missing == "id" else TEXT
        raise Unreadable(f"{where}: no {missing}; one of {', '.join(names)} has to hold a text")
    metadata = fields.pop("metadata", None) or {}
    source = fields.pop("source", "")
    if not isinstance(metadata, dict):
        raise Unreadable(f"{where}: metadata is {type(metadata).__name__}, an object is accepted")
    try:
        return Document(id, text, title="" if title is None else title, metadata={**fields, **metadata}, source=source)
    except UserError as error:
        raise Unreadable(f"{where}: {error}") from error


def _taken(fields: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((fields.pop(name) for name in names if name in fields), None)


def _decoded(raw: bytes, path: Path, charset: str | None = None) -> str:
    """Text of a file: by its byte order mark, by what it says of itself, as UTF-8."""
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if raw.startswith(mark):
            charset = name
    try:
        return raw.decode(charset or "utf-8")
    except (UnicodeDecodeError, LookupError) as error:
        raise Unreadable(f"{path}: {error}; convert it to UTF-8") from error


PARSERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    ".txt": _text,
    ".text": _text,
    ".rst": _text,
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".pdf": _pdf,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}
