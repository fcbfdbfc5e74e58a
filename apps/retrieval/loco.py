"""LoCoV1 and anything in its row format: queries {qid, query, answer_pids}, documents {pid, passage}.

Layouts, the first that is there: `<task>_queries.jsonl`, `queries/<task>_test.jsonl`, `queries/<task>.jsonl`,
`<task>/queries.jsonl` (each may end in .gz; likewise documents), below the folder or below copies of the Hugging Face
data sets LoCoV1-Queries and LoCoV1-Documents in it, also as its cache keeps them (HF_HOME/hub); and Parquet or Arrow
files there, told apart by their column `dataset`.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from farfield.apps.training.errors import UserError

# Task: what the data it was made of are called; a model that was trained on one of these may have seen them.
TASKS: dict[str, tuple[str, ...]] = {
    "summ_screen_fd": ("summscreen", "summ_screen", "scrolls"),
    "gov_report": ("govreport", "gov_report", "scrolls", "longbench"),
    "qmsum": ("qmsum", "scrolls", "longbench"),
    "qasper_title": ("qasper", "s2orc", "scrolls", "longbench"),
    "qasper_abstract": ("qasper", "s2orc", "scrolls", "longbench"),
    "multifieldqa": ("multifieldqa", "longbench"),
    "2wikimqa": ("2wiki", "longbench"),
    "passage_retrieval": ("passage_retrieval", "longbench"),
    "legal_case_reports": ("legal_case_reports",),
    "courtlistener_HTML": ("courtlistener", "pile-of-law", "pile_of_law"),
    "courtlistener_Plain_Text": ("courtlistener", "pile-of-law", "pile_of_law"),
    "stackoverflow": ("stackoverflow", "stackexchange", "stack-exchange"),
}
# Of the same kind, not of LoCoV1.
LOCAL: dict[str, tuple[str, ...]] = {
    "qmsum_question": TASKS["qmsum"],
    "qmsum_summary": TASKS["qmsum"],
    "pep_title": ("python-peps", "peps.python"),
    "pep_abstract": ("python-peps", "peps.python"),
}
KINDS = ("queries", "documents")
FILES = ("{task}_{kind}.jsonl", "{kind}/{task}_test.jsonl", "{kind}/{task}.jsonl", "{task}/{kind}.jsonl")
FOLDERS = {"queries": ("LoCoV1-Queries", "queries"), "documents": ("LoCoV1-Documents", "documents")}


class Query(NamedTuple):
    """A query with the documents that answer it; evidence is characters [start, end) of the first, if rows say so."""

    id: str
    text: str
    relevant: tuple[str, ...]
    evidence: tuple[int, int] | None


@dataclass(frozen=True)
class Task:
    """Queries and documents of one task; `dropped` counts rows that cannot be used, by reason."""

    name: str
    queries: list[Query]
    documents: dict[str, str]
    dropped: Mapping[str, int]


def data_root(data: str | None) -> Path:
    """The folder of tasks: the one given, else $FARFIELD_DATA/retrieval, else ../shared/data/retrieval.

    Raises: UserError: there is none.
    """
    root = Path(data) if data is not None else Path(os.environ.get("FARFIELD_DATA", "../shared/data")) / "retrieval"
    if not root.is_dir():
        raise UserError(f"data={root}: there is no such folder; name one with LoCoV1 files or set FARFIELD_DATA")
    return root


def found(root: Path) -> list[str]:
    """Tasks whose queries and documents are both below a folder: those of TASKS and LOCAL first, then by name."""
    both = set.intersection(*(_names(root, kind) for kind in KINDS))
    known = [task for task in (*TASKS, *LOCAL) if task in both]
    return known + sorted(both - set(known))


def absent(root: Path) -> list[str]:
    """Tasks of LoCoV1 that are not below a folder."""
    there = set(found(root))
    return [task for task in TASKS if task not in there]


def load(root: Path, name: str) -> Task:
    """Read a task.

    Args:
        root: As of `data_root`.
        name: Of TASKS, or any other that `found` lists.
    Returns: The task. Rows without text, queries that nothing answers, and answers that are no document are dropped and
        counted.
    Raises: UserError: the task is not there, a row does not read (its file and line are named), an id comes twice.
    """
    dropped: dict[str, int] = {}

    def drop(reason: str) -> None:
        dropped[reason] = dropped.get(reason, 0) + 1

    documents: dict[str, str] = {}
    for where, row in _rows(root, name, "documents"):
        pid = str(_field(row, "pid", where))
        if pid in documents:
            raise UserError(f"{where}: pid {pid!r} came before; every document needs an id of its own")
        if text := _field(row, "passage", where):
            documents[pid] = str(text)
        else:
            drop("documents without text")
    queries: list[Query] = []
    seen: set[str] = set()
    for where, row in _rows(root, name, "queries"):
        qid, text = str(_field(row, "qid", where)), _field(row, "query", where)
        if qid in seen:
            raise UserError(f"{where}: qid {qid!r} came before; every query needs an id of its own")
        seen.add(qid)
        named = _answers(_field(row, "answer_pids", where), where)
        relevant = tuple(pid for pid in named if pid in documents)
        if len(relevant) < len(named):
            drop("answers that are no document")
        if not text or not relevant:
            drop("queries without text" if not text else "queries that no document answers")
            continue
        queries.append(Query(qid, str(text), relevant, _evidence(row.get("evidence"), where)))
    if not queries:
        raise UserError(
            f"{name}: no query of {root} is left ({dropped}); look whether queries and documents belong together"
        )
    return Task(name, queries, documents, dropped)


def _names(root: Path, kind: str) -> set[str]:
    names = set()
    for base in _bases(root, kind):
        for pattern in FILES:
            before, after = pattern.format(task="*", kind=kind).split("*")
            for end in ("", ".gz"):
                for file in base.glob(f"{before}*{after}{end}"):
                    name = file.relative_to(base).as_posix().removeprefix(before).removesuffix(end).removesuffix(after)
                    # documents/x_test.jsonl fits {kind}/{task}.jsonl too.
                    names.add(name.removesuffix("_test"))
        for file in _tables(base, kind):
            names.update(map(str, _column(file, "dataset")))
    return names


def _bases(root: Path, kind: str) -> list[Path]:
    name = FOLDERS[kind][0]
    cached = sorted(root.glob(f"datasets--hazyresearch--{name}/snapshots/*"))
    return [root, *(p for p in (root / name, root / "hazyresearch" / name, *cached) if p.is_dir())]


def _tables(base: Path, kind: str) -> list[Path]:
    whole = base.name == FOLDERS[kind][0] or base.parent.name == "snapshots"
    folder = base if whole else base / FOLDERS[kind][1]
    return sorted([*folder.rglob("*.parquet"), *folder.rglob("*.arrow")]) if folder.is_dir() else []


def _rows(root: Path, task: str, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with where they stand: `file:line`."""
    for base in _bases(root, kind):
        for pattern in FILES:
            for end in ("", ".gz"):
                file = base / (pattern.format(task=task, kind=kind) + end)
                if file.is_file():
                    yield from _lines(file)
                    return
        files = [f for f in _tables(base, kind) if task in _column(f, "dataset")]
        for file in files:
            for i, row in enumerate(_table(file).to_pylist()):
                if row["dataset"] == task:
                    yield f"{file}: row {i}", row
        if files:
            return
    raise UserError(f"{kind} of {task} are not in {root}; there are: {', '.join(found(root)) or 'no tasks'}")


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            for i, line in enumerate(lines, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UserError(f"{file}:{i}: a JSON object a line is accepted")
                    yield f"{file}:{i}", row
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: a line is not JSON in UTF-8: {error}") from error
    except (OSError, EOFError) as error:
        raise UserError(f"{file}: it cannot be read to its end: {error}") from error


def _table(file: Path, columns: list[str] | None = None) -> Any:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise UserError(f"{file} needs the package pyarrow: pip install pyarrow") from error
    try:
        if file.suffix == ".parquet":
            return parquet.read_table(file, columns=columns)
        # What datasets.save_to_disk writes is a stream.
        table = arrow.ipc.open_stream(str(file)).read_all()
        return table.select(columns) if columns else table
    except (arrow.ArrowException, KeyError, OSError) as error:
        raise UserError(f"{file}: this is no table of LoCoV1 rows: {error}") from error


def _column(file: Path, name: str) -> set[Any]:
    return set(_table(file, [name]).column(name).unique().to_pylist())


def _field(row: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in row:
        raise UserError(f"{where}: the field {key!r} is missing; there are: {', '.join(row)}")
    return row[key]


def _answers(value: Any, where: str) -> list[str]:
    """Ids of an answer_pids field: a list, a list as text, or one id."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise UserError(f"{where}: answer_pids={value[:60]} is no list") from error
    values = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(str(v) for v in values if v is not None))


def _evidence(value: Any, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        start, end = value
        return int(start), int(end)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: evidence={value}: [start, end] in characters is accepted") from error
