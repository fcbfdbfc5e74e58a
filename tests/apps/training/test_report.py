"""A page holds its pictures; a table of the terminal its cells. Figures as SVG: tests/apps/genomics/test_figures.py."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from farfield.apps.training.report import print_table, write_report

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def test_pictures_are_inlined_and_captions_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    tables = {"Errors <b>": (("model", "error"), [("ours & theirs", "0.1")]), "": (("bare",), [("1",)])}
    write_report(tmp_path / "r.html", "T", ['"quoted"'], tables, {'The "field"': tmp_path / "a.png"})
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"data:image/png;base64,{base64.b64encode(PNG).decode()}" in page
    assert 'alt="The &quot;field&quot;"' in page
    assert "<caption>Errors &lt;b&gt;</caption>" in page
    assert "<td>ours &amp; theirs</td>" in page
    assert page.count("<caption>") == 1
    assert page.count("<table>") == 2


def test_a_table_shows_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("model", "error"), [("ours", "0.25"), ("theirs", "0.5")])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("model", "error", "ours", "0.25", "theirs", "0.5"))
