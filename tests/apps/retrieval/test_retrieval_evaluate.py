"""The verb on a corpus whose answers are known: every row, both buckets, what is absent, the default."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farfield.apps.cli import main
from farfield.apps.retrieval import evidence, ranking
from farfield.apps.retrieval.encoder import Encoding
from farfield.apps.retrieval.evaluate import ANY, BEST, BM25_FULL, HYBRID, Result, Score, default_mode, evaluate
from farfield.apps.retrieval.loco import Query, Task
from farfield.apps.retrieval.metrics import Interval
from farfield.apps.training.errors import UserError
from tests.apps.retrieval import tiny_encoder

FILLER = "the of and to in is a that it for on with as this by "
KEYS = ["silver tiger", "copper ocean", "winter garden", "paper cloud"]
SETTINGS: dict[str, Any] = {
    "data": None,
    "tasks": None,
    "encoder": None,
    "window": None,
    "overlap": 0,
    "k1": 1.2,
    "b": 0.75,
    "first_characters": 40,
    "fusion": {"k": 4.0, "weights": [3.0, 1.0]},
    "recall": [1, 3],
    "draws": 50,
    "in_domain": [],
    "cache": None,
    "out": None,
    "device": "cpu",
    "precision": "fp32",
    "seed": 0,
    "resume": None,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two tasks; every document says its key words after a filler of another length."""
    for task in ("qmsum", "harbour"):
        documents = [
            {"pid": f"d{i}", "passage": FILLER * (1 + 3 * i) + key + " " + FILLER, "dataset": task}
            for i, key in enumerate(KEYS)
        ]
        queries = [
            {"qid": f"q{i}", "query": key, "answer_pids": [f"d{i}"], "dataset": task} for i, key in enumerate(KEYS)
        ]
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for kind, rows in (("queries", queries), ("documents", documents)):
            (folder / f"{task}_{kind}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path / "data"


def test_bm25_alone_finds_words_wherever_they_stand(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = evaluate(run_folder=tmp_path, **SETTINGS | {"data": str(data)})
    assert list(results) == ["qmsum", "harbour"]
    result = results["qmsum"]
    assert (result.queries, result.documents, result.estimated_positions) == (4, 4, 4)
    assert result.rows[BM25_FULL].ndcg == (1.0, 1.0, 1.0)
    assert result.rows[BM25_FULL].recall == {1: (1, 1, 1), 3: (1, 1, 1)}
    # No key stands in the first 40 characters.
    assert result.rows["BM25, first 40 characters"].ndcg.mean == 0.0
    assert result.rows[BM25_FULL].by_length == {"to 2k": (1.0, 4)}
    assert result.differences["BM25, first 40 characters"] == (-1, -1, -1)
    said = capsys.readouterr().out
    assert "11 of the 12 tasks of LoCoV1 are not there: summ_screen_fd, gov_report, qasper_title" in said
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["tasks"]["qmsum"]["rows"]["BM25"]["ndcg@10"] == [1, 1, 1]
    assert len(report["absent"]) == 11
    assert report["encoder"] is report["default"] is None


def test_all_rows_with_an_encoder_and_again_from_its_cache(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tiny_encoder.make(tmp_path / "encoder")
    (encoder / "trained_on.json").write_text('{"sources": ["scrolls"], "tasks": ["harbour"]}')
    more = {
        "data": str(data),
        "encoder": str(encoder),
        "cache": str(tmp_path / "cache"),
        "out": str(tmp_path / "a.json"),
    }
    results = evaluate(run_folder=tmp_path, **SETTINGS | more)
    rows = results["qmsum"].rows
    assert len(rows) == 7
    assert set(results["qmsum"].differences) == set(rows) - {BM25_FULL}
    # A window of the key words alone is in no document, but the best window has them, and the first does not.
    assert rows[BEST].ndcg.mean > rows["encoder, first window"].ndcg.mean
    assert rows[HYBRID].ndcg.mean == 1.0
    assert (results["qmsum"].setting, results["harbour"].setting) == ("zero-shot", "in-domain")
    assert results["qmsum"].contamination == "possible: scrolls"
    said = capsys.readouterr().out
    assert "zero-shot, mean nDCG@10 of 1 tasks" in said
    assert "in-domain, mean nDCG@10 of 1 tasks" in said
    from farfield.apps.retrieval.sentence_encoder import SentenceEncoder

    monkeypatch.setattr(SentenceEncoder, "_batches", lambda *a: np.empty((0, 32), dtype=np.float32))
    again = evaluate(run_folder=tmp_path, **SETTINGS | more)
    assert again == results
    assert json.loads((tmp_path / "a.json").read_text())["encoder"]["window"] == 14


def test_the_command_line_takes_the_same_settings(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["retrieval", "evaluate", f"data={data}", "encoder=null", "tasks=[harbour]", "draws=20", "recall=[2]"]
    assert main(words) == 0
    assert "harbour: 4 queries, 4 documents, zero-shot" in capsys.readouterr().out
    assert main([*words, "fusion.k=-1"]) == 2
    assert "k from 0 on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["gov_report"]}, "gov_report are not in .* there are: qmsum, harbour"),
        ({"tasks": "qmsum"}, "a list of names"),
        ({"recall": [0]}, "depths from 1 to 100"),
        ({"fusion": {"k": 4.0, "weights": [0, 0]}}, "two weights"),
        ({"encoder": "nowhere"}, r"modules\.json"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    data: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(run_folder=tmp_path, **SETTINGS | {"data": str(data)} | change)


def test_positions_are_those_that_rows_name_or_where_the_words_are() -> None:
    text = "a " * 5000
    documents = {"d": text + "silver tiger " + text, "e": "moon"}
    queries = [
        Query("1", "silver tiger", ("d",), None),
        Query("2", "silver tiger", ("d",), (19_000, 19_010)),
        Query("3", "unknown", ("e",), None),
    ]
    task = Task("t", queries, documents, {})
    assert evidence.positions(task) == (["second", "last quarter", "first quarter"], 2)
    assert evidence.lengths(task) == ["8k to 32k", "8k to 32k", "to 2k"]


def test_the_best_window_decides_and_equal_documents_keep_their_order() -> None:
    def document(*rows: tuple[float, float]) -> Encoding:
        windows = np.array(rows, dtype=np.float32)
        mean = windows.mean(0)
        return Encoding(mean / np.linalg.norm(mean), windows, np.zeros((len(rows), 2), dtype=np.int64), 1, False)

    documents = [document((1, 0)), document((0.6, 0.8), (0, 1)), document((0, 1))]
    queries = np.array([[0, 1], [1, 0]], dtype=np.float32)
    assert ranking.by_best_window(queries, documents) == [[1, 2, 0], [0, 1, 2]]
    # No window of the first is nearer than the second, but their mean is.
    pair = [document((0.8, 0.6), (-0.8, 0.6)), document((0.6, 0.8))]
    assert ranking.by_best_window(queries[:1], pair) == [[1, 0]]
    assert ranking.by_any_vector(queries[:1], pair) == [[0, 1]]
    assert ranking.by_first_window(queries, documents) == [[2, 1, 0], [0, 1, 2]]
    assert ranking.by_words(["moon"], ["a", "moon a", "moon"], k1=1.2, b=0.75, first=None) == [[2, 1]]
    assert ranking.hybrid([[2, 1]], [[0, 2]], 60, (1, 1)) == [[2, 0, 1]]


@pytest.mark.parametrize(
    ("gains", "best", "expected"),
    [
        (((0.02, 0.01), (-0.005, -0.02)), 0.9, "hybrid"),
        (((0.02, 0.01), (-0.02, -0.03)), 0.4, "bm25"),
        (((0.02, -0.01), (0.01, -0.01)), 0.4, "bm25"),
        (((0.02, -0.01), (0.01, -0.01)), 0.9, "dense"),
    ],
)
def test_hybrid_is_the_default_if_it_wins_somewhere_and_loses_nowhere(
    gains: tuple[tuple[float, float], ...], best: float, expected: str
) -> None:
    def score(mean: float) -> Score:
        return Score(Interval(mean, mean, mean), {}, Interval(0, 0, 0), {}, {}, [])

    results = {
        str(i): Result(
            *(1, 1, {}, "zero-shot", "unknown", 0, 0),
            {BM25_FULL: score(0.5), ANY: score(best), HYBRID: score(0.5 + mean)},
            {HYBRID: Interval(mean, low, mean + 0.01)},
        )
        for i, (mean, low) in enumerate(gains)
    }
    assert default_mode(results) == expected
