"""The harness times side by side, refuses wrong results and keeps one true row for each key."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import harness
from benchmarks.harness import Bench, Row, Times, WrongResult, measure, measure_together, shape, speedup, write_rows

SCHEMA = (
    "name,provider,pass,shape,dtype,p20_ms,p50_ms,p80_ms,floor_ms,peak_bytes,"
    "rel_err,metric,value,machine,torch,commit,date"
)


def _row(provider: str = "farfield", **kwargs: object) -> Row:
    return Row("word", provider, "fwd", "B=1 L=8", "fp32", "cpu", **kwargs)  # type: ignore[arg-type]


def test_columns_are_those_of_the_schema(tmp_path: Path) -> None:
    (path,) = write_rows([_row(p50_ms=1.25)], tmp_path, "word")
    assert path == tmp_path / "cpu" / "word.csv"
    assert path.read_text().splitlines()[0] == SCHEMA
    (record,) = csv.DictReader(path.open())
    assert (record["pass"], record["shape"], record["p50_ms"]) == ("fwd", "B=1 L=8", "1.25")
    assert record["torch"] == torch.__version__
    assert record["p20_ms"] == ""


def test_row_with_the_same_key_is_replaced_and_others_stay(tmp_path: Path) -> None:
    write_rows([_row(p50_ms=1.0), _row("torch", p50_ms=2.0)], tmp_path, "word")
    write_rows([_row(p50_ms=0.5), _row(metric="tokens/s", value=9.0)], tmp_path, "word")
    records = harness.read_rows(tmp_path / "cpu" / "word.csv")
    assert [(r["provider"], r["p50_ms"], r["metric"]) for r in records] == [
        ("farfield", "0.5", ""),
        ("torch", "2", ""),
        ("farfield", "", "tokens/s"),
    ]
    assert [p.name for p in (tmp_path / "cpu").iterdir()] == ["word.csv"]


def test_file_with_other_columns_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "cpu" / "word.csv"
    path.parent.mkdir()
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"word\.csv"):
        write_rows([_row()], tmp_path, "word")
    assert path.read_text() == "a,b\n1,2\n"


def test_row_refuses_a_metric_without_value_and_an_unknown_pass() -> None:
    with pytest.raises(ValueError, match="metric"):
        _row(metric="tokens/s")
    with pytest.raises(ValueError, match="pass"):
        Row("word", "farfield", "forward", "", "fp32", "cpu")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda y: torch.zeros_like(y),
        lambda y: y.roll(1),
        lambda y: y * float("nan"),
        lambda y: torch.where(torch.arange(len(y)) == 3, torch.inf, y),
    ],
    ids=["zero", "shifted", "nan", "inf"],
)
def test_wrong_result_is_not_timed(wrong) -> None:  # type: ignore[no-untyped-def]
    y = torch.randn(64, dtype=torch.float64)
    with pytest.raises(WrongResult, match="bad"):
        measure_together({"good": lambda: y, "bad": lambda: wrong(y)}, expected=y, tolerance=1e-2, seconds=0.01)


def test_zero_expected_result_is_refused() -> None:
    with pytest.raises(ValueError, match="all zero"):
        harness.relative_error(torch.ones(3), torch.zeros(3))


def test_error_is_relative_l2_of_the_worst_tensor() -> None:
    e = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert harness.relative_error([e, e + torch.tensor([0.0, 0.5])], [e, e]) == pytest.approx(0.1)


def test_slower_provider_is_told_and_the_calls_take_turns() -> None:
    calls: list[str] = []

    def provider(name: str, seconds: float) -> torch.Tensor:
        calls.append(name)
        time.sleep(seconds)
        return torch.ones(1)

    times = measure_together(
        {"a": lambda: provider("a", 0.002), "b": lambda: provider("b", 0.008)}, seconds=0.05, max_rounds=6
    )
    assert times["a"].p20_ms <= times["a"].p50_ms <= times["a"].p80_ms
    assert speedup(times, "a", "b") > 1.5
    assert len(times["a"].samples_ms) == len(times["b"].samples_ms) >= 5
    assert abs(calls.count("a") - calls.count("b")) <= 1
    assert "a" in calls[-3:]
    assert "b" in calls[-3:]


def test_peak_sees_memory_that_is_freed_before_the_end() -> None:
    def fn() -> torch.Tensor:
        return torch.ones(2**24).sum()

    fn()
    peak = measure(fn, seconds=0.01).peak_bytes
    if peak is None:
        pytest.skip("this system does not let a process reset its high-water mark")
    assert 2**25 < peak < 2**27


def test_peak_is_left_out_where_the_high_water_cannot_be_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_reset_high_water", lambda: False)
    times = measure(lambda: torch.ones(8), seconds=0.01)
    assert times.peak_bytes is None
    assert _row(peak_bytes=times.peak_bytes).record()["peak_bytes"] == ""


def test_floor_grows_with_the_bytes() -> None:
    small, large = harness.floor_ms(2**20, "cpu"), harness.floor_ms(2**24, "cpu")
    assert large == pytest.approx(16 * small)
    assert 1e8 < harness.copy_bandwidth(torch.device("cpu")) < 1e13


def test_commit_comes_from_the_environment_where_git_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    monkeypatch.setenv("FARFIELD_COMMIT", "0123abc")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert harness.measured_commit.__wrapped__() == "0123abc"


def test_main_writes_each_row_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cases(bench: Bench):  # type: ignore[no-untyped-def]
        """Cases of a test."""
        assert bench.quick
        times = Times(1.0, 2.0, 3.0, 1024, 1e-7, (2.0,))
        yield bench.row("word", "farfield", "fwd", shape(B=1, L=8), "fp32", times=times, moved_bytes=8)
        assert (tmp_path / "cpu" / "word.csv").exists()
        yield bench.row("word", "farfield", "", shape(B=1), "fp32", metric="tokens/s", value=5.0)

    threads = torch.get_num_threads()
    harness.main("word", cases, ["--out", str(tmp_path), "--device", "cpu", "--quick", "--threads", str(threads)])
    assert len(harness.read_rows(tmp_path / "cpu" / "word.csv")) == 2
    assert "err 1e-07" in capsys.readouterr().out


@pytest.mark.slow
def test_every_benchmark_shows_its_help() -> None:
    words = sorted(p.stem for p in (harness.ROOT / "benchmarks").glob("bench_*.py"))
    for word in words:
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{word}", "--help"],
            cwd=harness.ROOT,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": ".typing", "PATH": ""},
        )
        assert done.returncode == 0, done.stderr
        assert "--out" in done.stdout
