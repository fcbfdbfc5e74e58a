"""Tasks are read from every layout, and what cannot be used is counted or named."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from farfield.apps.retrieval import loco, provenance
from farfield.apps.retrieval.provenance import Provenance
from farfield.apps.training.errors import UserError

QUERIES = [
    {"qid": "q1", "query": "silver tiger", "answer_pids": ["d1"], "dataset": "qmsum"},
    {"qid": "q2", "query": "winter", "answer_pids": ["d2", "d3"], "dataset": "qmsum", "evidence": [3, 9]},
]
DOCUMENTS = [{"pid": f"d{i}", "passage": f"passage {i}", "dataset": "qmsum"} for i in (1, 2, 3)]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)


LAYOUTS = {
    "files": ("qmsum_queries.jsonl.gz", "qmsum_documents.jsonl.gz"),
    "folders": ("queries/qmsum_test.jsonl", "documents/qmsum_test.jsonl"),
    "hugging face": ("LoCoV1-Queries/queries/qmsum_test.jsonl", "LoCoV1-Documents/documents/qmsum_test.jsonl"),
    "owner": ("hazyresearch/LoCoV1-Queries/queries/qmsum.jsonl", "hazyresearch/LoCoV1-Documents/documents/qmsum.jsonl"),
    "task": ("qmsum/queries.jsonl", "qmsum/documents.jsonl"),
    "cache of hugging face": (
        "datasets--hazyresearch--LoCoV1-Queries/snapshots/3f1/queries/qmsum_test.jsonl",
        "datasets--hazyresearch--LoCoV1-Documents/snapshots/8c0/documents/qmsum_test.jsonl",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_task(tmp_path: Path, layout: str) -> None:
    for file, rows in zip(LAYOUTS[layout], (QUERIES, DOCUMENTS), strict=True):
        write(tmp_path / file, rows)
    assert loco.found(tmp_path) == ["qmsum"]
    task = loco.load(tmp_path, "qmsum")
    assert task.documents == {f"d{i}": f"passage {i}" for i in (1, 2, 3)}
    assert task.queries == [("q1", "silver tiger", ("d1",), None), ("q2", "winter", ("d2", "d3"), (3, 9))]
    assert task.dropped == {}
    assert loco.absent(tmp_path) == [t for t in loco.TASKS if t != "qmsum"]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("place", ["LoCoV1-{}", "datasets--hazyresearch--LoCoV1-{}/snapshots/3f1"])
def test_tables_of_hugging_face_are_told_apart_by_their_column(tmp_path: Path, suffix: str, place: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for kind, rows in (("Queries", QUERIES), ("Documents", DOCUMENTS)):
        rows = [{k: v for k, v in row.items() if k != "evidence"} for row in rows]
        other = [{**rows[0], "dataset": "gov_report"}]
        file = tmp_path / place.format(kind) / "data" / f"test-0.{suffix}"
        file.parent.mkdir(parents=True)
        table = arrow.Table.from_pylist(rows + other)
        if suffix == "parquet":
            parquet.write_table(table, file)
        else:
            with arrow.ipc.new_stream(str(file), table.schema) as stream:
                stream.write_table(table)
    assert loco.found(tmp_path) == ["gov_report", "qmsum"]
    assert [q.id for q in loco.load(tmp_path, "qmsum").queries] == ["q1", "q2"]
    assert list(loco.load(tmp_path, "gov_report").documents) == ["d1"]


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    more = [
        {"qid": "q3", "query": None, "answer_pids": ["d1"]},
        {"qid": "q4", "query": "glass", "answer_pids": '["d2", "nowhere"]'},
        {"qid": "q5", "query": "lamp", "answer_pids": "d4"},
    ]
    write(tmp_path / "qmsum_queries.jsonl", [*QUERIES, *more])
    write(tmp_path / "qmsum_documents.jsonl", [*DOCUMENTS, {"pid": "d4", "passage": None}])
    task = loco.load(tmp_path, "qmsum")
    assert [q.id for q in task.queries] == ["q1", "q2", "q4"]
    assert task.queries[2].relevant == ("d2",)
    assert task.dropped == {
        "documents without text": 1,
        "queries without text": 1,
        "answers that are no document": 2,
        "queries that no document answers": 1,
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"qid": "q1", "query": "a", "answer_pids": ["d1"]}', r"queries\.jsonl:3: qid 'q1' came before"),
        ('{"qid": "q9", "answer_pids": ["d1"]}', r":3: the field 'query' is missing; there are: qid, answer_pids"),
        ('{"qid": "q9"', "is not JSON"),
        ("[1]", r":3: a JSON object"),
        ('{"qid": "q9", "query": "a", "answer_pids": "[d1"}', r":3: answer_pids"),
        ('{"qid": "q9", "query": "a", "answer_pids": ["d1"], "evidence": 5}', r":3: evidence=5"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path / "qmsum_documents.jsonl", DOCUMENTS)
    write(tmp_path / "qmsum_queries.jsonl", QUERIES)
    with (tmp_path / "qmsum_queries.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message):
        loco.load(tmp_path, "qmsum")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        loco.data_root(str(tmp_path / "none"))
    write(tmp_path / "qmsum_queries.jsonl", QUERIES)
    assert loco.found(tmp_path) == []
    with pytest.raises(UserError, match="documents of qmsum are not in"):
        loco.load(tmp_path, "qmsum")
    (tmp_path / "qmsum_documents.jsonl.gz").write_bytes(gzip.compress(json.dumps(DOCUMENTS[0]).encode())[:-9])
    with pytest.raises(UserError, match="cannot be read to its end"):
        loco.load(tmp_path, "qmsum")


def test_contamination_is_seen_possible_none_or_unknown(tmp_path: Path) -> None:
    write(tmp_path / "qmsum_documents.jsonl", DOCUMENTS)
    write(tmp_path / "qmsum_queries.jsonl", QUERIES)
    task = loco.load(tmp_path, "qmsum")
    assert provenance.contamination(task, Provenance(None)) == "unknown"
    assert provenance.contamination(task, Provenance(("snli", "gooaq"))) == "none declared"
    assert provenance.contamination(task, Provenance(("snli", "tau/SCROLLS"))) == "possible: tau/scrolls"
    assert provenance.contamination(task, Provenance(("hazyresearch/LoCoV1-Queries",))).startswith("seen: hazy")
    assert provenance.contamination(task, Provenance((), ids=frozenset({"d3"}))) == "seen: 1 of 2 queries"


def test_provenance_is_read_from_the_folder(tmp_path: Path) -> None:
    assert provenance.read(tmp_path) == Provenance(None)
    (tmp_path / "README.md").write_text("---\ndatasets:\n- s2orc\n- ms_marco\n---\n# Card\n")
    assert provenance.read(tmp_path) == Provenance(("s2orc", "ms_marco"))
    (tmp_path / "trained_on.json").write_text('{"sources": ["a"], "tasks": ["qmsum"], "ids": ["q1"]}')
    told = provenance.read(tmp_path)
    assert told == Provenance(("a",), frozenset({"qmsum"}), frozenset({"q1"}))
    assert provenance.in_domain("qmsum", told)
    assert not provenance.in_domain("pep_title", told)
    (tmp_path / "trained_on.json").write_text("[1]")
    with pytest.raises(UserError, match="sources, tasks and ids"):
        provenance.read(tmp_path)
