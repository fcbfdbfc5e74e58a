"""A self-contained HTML page: sentences, tables, pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from farfield.apps.training import atomic_write

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; color: #555 }
th, td { padding: .3rem .9rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
figure { margin: 2rem 0 } img { max-width: 100%; height: auto } figcaption { color: #555 }
"""
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<h1>{title}</h1>
{body}
</html>
"""


def write_report(
    path: Path,
    title: str,
    paragraphs: Sequence[str],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]],
    pictures: Mapping[str, Path],
) -> None:
    """Write the page; text is escaped, pictures (PNG) are inlined, nothing is fetched when it is opened.

    Args:
        path: File to write, atomically.
        paragraphs: Sentences at the top.
        tables: Caption to column names and rows, all as text.
        pictures: Caption to file, in order.
    """
    parts = [f"<p>{html.escape(p)}</p>" for p in paragraphs]
    for caption, (names, rows) in tables.items():
        head = "".join(f"<th>{html.escape(n)}</th>" for n in names)
        lines = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        caption = html.escape(caption)
        parts.append(f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>")
    for caption, picture in pictures.items():
        image = base64.b64encode(picture.read_bytes()).decode()
        source = f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{image}">'
        parts.append(f"<figure>{source}<figcaption>{html.escape(caption)}</figcaption></figure>")
    atomic_write(path, PAGE.format(title=html.escape(title), style=STYLE, body="\n".join(parts)).encode())
