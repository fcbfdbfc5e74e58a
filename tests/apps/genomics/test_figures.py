"""A report is one file: everything is in it, nothing is fetched, text is text."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from farfield.apps.genomics.figures import loss_figure, window_figure
from farfield.apps.training.report import write_report

TABLE = (("model", "bits"), (("ours <b>", "1.95"), ("uniform", "2.00")))


class Outline(HTMLParser):
    """Text of the cells, and every address that the page names."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("td", "th") and data.strip():
            self.cells.append(data)


@pytest.fixture
def page(tmp_path: Path) -> str:
    bits = np.random.default_rng(0).random(5000).astype(np.float32)
    bits[0] = np.nan
    figures = {
        "Loss & more": loss_figure({"training": ([0, 100, 200], [2.0, 1.97, 1.95])}, {"uniform": 2.0, "order 3": 1.96}),
        "Window": window_figure(bits, bits > 0.5, 700, 3000),
    }
    write_report(tmp_path / "new" / "report.html", "A <title>", ["It beats nothing & says so."], {"": TABLE}, figures)
    return (tmp_path / "new" / "report.html").read_text(encoding="utf-8")


def test_the_page_fetches_nothing(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert all(address.startswith("#") for address in outline.addresses)
    assert not {"script", "link", "img", "iframe", "object"} & set(outline.tags)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page)


def test_text_is_text(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.cells == ["model", "bits", "ours <b>", "1.95", "uniform", "2.00"]
    assert "<title>A &lt;title&gt;</title>" in page
    assert "It beats nothing &amp; says so." in page
    assert "Loss &amp; more" in page
    assert "b" not in outline.tags


def test_each_figure_is_inlined_once(page: str) -> None:
    assert page.count("<svg") == page.count("</svg>") == page.count("<figcaption>") == 2
    assert "<?xml" not in page
    assert "<!DOCTYPE svg" not in page


def test_ids_of_two_figures_do_not_meet(page: str) -> None:
    ids = re.findall(r'<(?:clipPath|path|defs)[^>]* id="([^"]+)"', page)
    first, second = (set(re.findall(r' id="(p[0-9a-f]{10})"', svg)) for svg in page.split("<svg")[1:3])
    assert ids
    assert not first & second


@pytest.mark.parametrize("length", [1, 2, 511, 512, 513, 5000])
def test_a_window_of_any_length_is_drawn(length: int) -> None:
    bits = np.arange(length, dtype=np.float32)
    figure = window_figure(bits, bits > 1, 10, 12)
    (line,) = figure.axes[0].get_lines()
    x, y = line.get_data()
    assert len(x) == len(y) == min(length, 512)
    edges = np.linspace(0, length, min(length, 512) + 1).astype(int)
    np.testing.assert_allclose(y, [bits[a:b].mean() for a, b in itertools.pairwise(edges)])
    assert 10 <= x[0] <= x[-1] <= 10 + length


def test_what_training_never_saw_is_marked() -> None:
    bits = np.ones(100, np.float32)
    labels = [window_figure(bits, bits > 1, 50, h).axes[0].get_legend_handles_labels()[1] for h in (0, 90, 400)]
    assert ["never seen in training" in shown for shown in labels] == [False, True, False]


def test_levels_are_lines_across_the_curve() -> None:
    figure = loss_figure({"training": ([0, 1], [2.0, 1.9])}, {"uniform": 2.0, "order 3": 1.96})
    levels = [line.get_ydata() for line in figure.axes[0].get_lines()[1:]]
    assert [list(y) for y in levels] == [[2.0, 2.0], [1.96, 1.96]]
