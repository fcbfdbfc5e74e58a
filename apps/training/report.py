"""Results for a person: a self-contained HTML page, and a table on the terminal."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farfield.apps.training.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; color: #555 }
th, td { padding: .3rem .9rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
figure { margin: 2rem 0 } svg, img { max-width: 100%; height: auto } figcaption { color: #555 }
"""
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<h1>{title}</h1>
{body}
</html>
"""

Rows = Sequence[Sequence[str]]


def write_report(
    path: Path,
    title: str,
    paragraphs: Sequence[str],
    tables: Mapping[str, tuple[Sequence[str], Rows]],
    figures: Mapping[str, Figure | Path],
) -> None:
    """Write the page; text is escaped, figures are inlined, nothing is fetched when it is opened.

    Args:
        path: File to write, atomically.
        paragraphs: Sentences at the top.
        tables: Caption, may be empty, to column names and rows, all as text.
        figures: Caption to a figure, drawn as SVG, or to a PNG file, in order.
    """
    parts = [f"<p>{html.escape(p)}</p>" for p in paragraphs]
    parts += [_table(caption, names, rows) for caption, (names, rows) in tables.items()]
    parts += [f"<figure>{_image(f, c)}<figcaption>{html.escape(c)}</figcaption></figure>" for c, f in figures.items()]
    atomic_write(path, PAGE.format(title=html.escape(title), style=STYLE, body="\n".join(parts)).encode())


def print_table(head: Sequence[str], rows: Rows) -> None:
    """One table on the terminal; every column but the first is numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _table(caption: str, names: Sequence[str], rows: Rows) -> str:
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    head = "".join(f"<th>{html.escape(n)}</th>" for n in names)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _image(figure: Figure | Path, caption: str) -> str:
    if isinstance(figure, Path):
        data = base64.b64encode(figure.read_bytes()).decode()
        return f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    # The XML prologue has no place inside a page.
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
