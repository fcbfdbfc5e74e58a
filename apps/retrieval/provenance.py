"""What an encoder was trained on, as far as its folder says, and what that makes of a score."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from farfield.apps.retrieval.loco import LOCAL, TASKS, Task
from farfield.apps.training.errors import UserError

# Written by who trains: {"sources": [...], "tasks": [...], "ids": [...]}.
FILE = "trained_on.json"
WHOLE_BENCHMARK = ("loco",)


@dataclass(frozen=True)
class Provenance:
    """Training data of an encoder.

    Args:
        sources: Names of data sets; None: nobody says.
        tasks: Tasks whose training part was used: their scores are in-domain.
        ids: Queries and documents that training saw.
    """

    sources: tuple[str, ...] | None
    tasks: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()


def read(folder: Path) -> Provenance:
    """What `trained_on.json` says, else the list `datasets` at the head of the model card README.md.

    Raises: UserError: trained_on.json does not read.
    """
    file = folder / FILE
    if file.is_file():
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            lists = {key: [str(x) for x in told.get(key, [])] for key in ("sources", "tasks", "ids")}
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{file}: an object with lists sources, tasks and ids is accepted: {error}") from error
        return Provenance(tuple(lists["sources"]), frozenset(lists["tasks"]), frozenset(lists["ids"]))
    return Provenance(_card(folder / "README.md"))


def _card(file: Path) -> tuple[str, ...] | None:
    import yaml

    if not file.is_file():
        return None
    parts = file.read_text(encoding="utf-8", errors="replace").split("---")
    if len(parts) < 3:
        return None
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    names = head.get("datasets") if isinstance(head, dict) else None
    return tuple(str(n) for n in names) if isinstance(names, list) else None


def in_domain(task: str, provenance: Provenance) -> bool:
    """Whether the training part of this task was used."""
    return task in provenance.tasks


def contamination(task: Task, provenance: Provenance) -> str:
    """What speaks against a score: `seen: ...`, `possible: ...`, `none declared` or `unknown`.

    Seen: queries or their documents were in training, by id, or the whole benchmark is among the sources. Possible: a
    source has the name of data that the task was made of.
    """
    touched = sum(bool(provenance.ids & {q.id, *q.relevant}) for q in task.queries)
    if touched:
        return f"seen: {touched:,} of {len(task.queries):,} queries"
    if provenance.sources is None:
        return "unknown"
    sources = [s.lower() for s in provenance.sources]
    if whole := [s for s in sources if any(w in s for w in WHOLE_BENCHMARK)]:
        return f"seen: {whole[0]}"
    names = {**TASKS, **LOCAL}.get(task.name, (task.name,))
    like = [s for s in sources if any(n in s.replace("_", "-") or n in s for n in names)]
    return f"possible: {like[0]}" if like else "none declared"
