"""Files become documents, and what is no document is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.parsers import Unreadable, documents, files, from_record
from farfield.apps.training.errors import UserError


def one(path: Path) -> Document:
    (document,) = documents(path, path.name)
    return document


def pdf(path: Path, text: str, pages: int = 1) -> Path:
    """A PDF by hand: pages with one line of text each."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(pages))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for i in range(pages):
        content = f"BT /F1 12 Tf 72 720 Td ({text} {i + 1}) Tj ET".encode()
        page = f"<< /Type /Page /Parent 2 0 R /Contents {5 + 2 * i} 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
        objects.append(page.encode())
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    data, offsets = b"%PDF-1.4\n", []
    for i, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (i, body)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    data += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    path.write_bytes(data)
    return path


def test_text_is_taken_as_it_stands(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Füße\n\nzwei", encoding="utf-8")
    assert one(path) == Document("a.txt", "Füße\n\nzwei", title="a", source=str(path))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_followed(tmp_path, encoding):
    (tmp_path / "a.txt").write_text("Füße", encoding=encoding)
    assert one(tmp_path / "a.txt").text == "Füße"


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(Unreadable, match=r"a\.txt: .*position 3.*UTF-8"):
        one(tmp_path / "a.txt")


def test_markdown_gives_its_heading_and_front_matter(tmp_path):
    (tmp_path / "a.md").write_text('---\nauthor: "Ada"\nyear: 1843\n---\n\n# Notes on *it*\n\nText.')
    document = one(tmp_path / "a.md")
    assert document.title == "Notes on *it*"
    assert document.metadata == {"author": "Ada", "year": "1843"}
    assert document.text == "\n# Notes on *it*\n\nText."


def test_html_gives_what_a_reader_sees(tmp_path):
    (tmp_path / "a.html").write_text(
        "<html><head><title>A &amp; B</title><style>p {}</style></head><body><h1>Head</h1><p>one   two\n three"
        "<br>four</p><script>no()</script><pre>a  b</pre><ul><li>x<li>y</ul></body></html>"
    )
    document = one(tmp_path / "a.html")
    assert document.title == "A & B"
    assert document.text.split("\n") == ["Head", "", "one two three", "four", "", "a  b", "", "x", "y"]


def test_html_says_its_charset(tmp_path):
    (tmp_path / "a.html").write_bytes(b'<meta charset="latin-1"><p>caf\xe9</p>')
    assert one(tmp_path / "a.html").text == "café"


def test_pdf_gives_its_pages(tmp_path):
    document = one(pdf(tmp_path / "a.pdf", "Solar wind, page", pages=2))
    assert document.text == "Solar wind, page 1\n\nSolar wind, page 2"
    assert document.metadata == {"pages": 2}


@pytest.mark.parametrize("content", [b"", b"no pdf at all", b"%PDF-1.4\n1 0 obj\n<<", b"%PDF-1.4\n%%EOF"])
def test_a_broken_pdf_is_named(tmp_path, content):
    (tmp_path / "a.pdf").write_bytes(content)
    with pytest.raises(Unreadable, match=r"a\.pdf: no readable PDF"):
        one(tmp_path / "a.pdf")


def test_a_pdf_without_text_says_so(tmp_path):
    path = pdf(tmp_path / "a.pdf", "text")
    path.write_bytes(path.read_bytes().replace(b"Tj", b"  "))
    with pytest.raises(Unreadable, match="holds no text"):
        one(path)


def test_json_lines_keep_ids_and_metadata(tmp_path):
    rows = [
        {"id": 7, "text": "one", "title": "t", "year": 2001, "metadata": {"lang": "en"}},
        {"pid": "p", "passage": "two", "tags": ["a", "b"]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = documents(tmp_path / "a.jsonl", "a.jsonl")
    assert first == Document("7", "one", title="t", metadata={"year": 2001, "lang": "en"})
    assert second == Document("p", "two", metadata={"tags": ["a", "b"]})


def test_json_lines_may_be_compressed(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a", "text": "b"}\n'))
    assert one(tmp_path / "a.jsonl.gz").id == "a"
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a", "text": "b"}\n')[:-9])
    with pytest.raises(Unreadable, match="no readable gzip"):
        list(documents(tmp_path / "b.jsonl.gz", "b"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: list came"),
        ('{"text": "a"}', "line 2: no id"),
        ('{"id": "a"}', "line 2: no text"),
        ('{"id": "a", "text": 1}', "line 2: no text"),
        ('{"id": "a\\u0000", "text": "b"}', "line 2: id .*control"),
        ('{"id": "a", "text": "\\ud800"}', "line 2: text of document 'a': character 0 is half a surrogate"),
        ('{"id": "a", "text": "b", "x": NaN}', "line 2: .*no number"),
        ('{"id": "a", "text": "b", "x": {"y": 1}}', "line 2: .*dict came"),
        ('{"id": "", "text": "b"}', "line 2: id ''"),
        ("[" * 100_000, "line 2: (JSON that is nested|no JSON)"),
    ],
)
def test_a_record_that_is_no_document_is_named_by_its_line(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"id": "0", "text": "x"}\n' + line + "\n")
    with pytest.raises(Unreadable, match=message):
        list(documents(tmp_path / "a.jsonl", "a.jsonl"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@given(st.dictionaries(st.sampled_from(["id", "text", "title", "metadata", "source", "x", "ÿ"]), json_values))
def test_any_record_is_a_document_or_an_error_with_its_place(record):
    try:
        assert from_record(record, "there").digest
    except UserError as error:
        place = str(error)[:7]
    else:
        place = "there: "
    assert place == "there: "


def test_a_folder_is_read_whole_and_links_out_of_it_are_not_followed(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("a")
    (folder / "b.md").write_text("b")
    (folder / "c.bin").write_bytes(b"c")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    assert [id for _, id in files(folder)] == ["b.md", "sub/a.txt"]
    with pytest.raises(UserError, match="there is no such file"):
        files(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no file in it ends in \.htm"):
        files(tmp_path / "empty")
