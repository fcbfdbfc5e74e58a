"""The quickstart tells the truth, and runs from nothing to a report."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from farfield.apps.genomics.quickstart import _verdict

ROOT = Path(__file__).parents[3]
BASELINES = {"uniform": 2.0, "Markov order 3": 1.95, "Markov order 11": 1.92}


def test_verdict_names_what_is_beaten_and_what_is_not():
    assert "it beats uniform, Markov order 3; it does not beat Markov order 11" in _verdict(1.94, BASELINES)
    assert "not" not in _verdict(1.90, BASELINES)
    assert "it does not beat uniform" in _verdict(2.01, BASELINES)
    assert "1.9400" in _verdict(1.94, BASELINES)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_quickstart_trains_reads_a_million_bases_and_reports(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT / ".typing"), "FARFIELD_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "farfield.apps.genomics.quickstart"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Markov order 11" in done.stdout
    (report,) = tmp_path.glob("runs/genomics/quickstart/*/report.html")
    page = report.read_text()
    assert page.count("<svg") == 2
    # Namespaces and metadata of an SVG are addresses too; nothing may be fetched.
    assert not re.search(r"(src|href)\s*=\s*[\"']https?:", page)
    ours = float(re.search(r"ours, just trained</td><td>([\d.]+)", page)[1])
    assert 1.80 < ours < 1.96, "better than an order-3 Markov model of this genome, worse than what is known of it"
