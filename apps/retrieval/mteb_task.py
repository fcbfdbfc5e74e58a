"""LoCoV1 tasks for mteb, from local files: `mteb.evaluate(model, mteb_tasks(folder))`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from farfield.apps.retrieval import loco


class LocoTask(AbsTaskRetrieval):
    """One task below a folder, in mteb's form; its main score is nDCG@10.

    Args:
        root: As of `loco.load`.
        name: As of `loco.load`; mteb calls it LoCo-<name>.
    """

    metadata = TaskMetadata(
        name="LoCo",
        description="Retrieval of whole documents, LoCoV1 and tasks in its format.",
        reference="https://arxiv.org/abs/2402.07440",
        dataset={"path": "hazyresearch/LoCoV1-Documents", "revision": "main"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        date=("2024-01-01", "2024-12-31"),
        domains=["Written"],
        task_subtypes=["Article retrieval"],
        license="not specified",
        annotations_creators="derived",
        dialect=[],
        sample_creation="found",
        bibtex_citation="",
    )

    def __init__(self, root: Path, name: str, **settings: Any) -> None:
        self.root, self.task = root, name
        self.metadata = LocoTask.metadata.model_copy(update={"name": f"LoCo-{name}"})
        super().__init__(**settings)

    def load_data(self, num_proc: int | None = None, **how: Any) -> None:
        """Read the files; nothing is fetched."""
        if getattr(self, "data_loaded", False):
            return
        task = loco.load(self.root, self.task)
        corpus = [{"id": pid, "title": "", "text": text} for pid, text in task.documents.items()]
        queries = [{"id": q.id, "text": q.text} for q in task.queries]
        relevant = {q.id: dict.fromkeys(q.relevant, 1) for q in task.queries}
        split = RetrievalSplitData(
            corpus=Dataset.from_list(corpus),
            queries=Dataset.from_list(queries),
            relevant_docs=relevant,
            top_ranked=None,
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def mteb_tasks(root: str | Path, names: Sequence[str] | None = None) -> list[LocoTask]:
    """Tasks for `mteb.evaluate`.

    Args:
        root: Folder of tasks, see `loco`.
        names: Which; None is all that are there.
    Returns: One mteb task each.
    Raises: UserError: a task is not there (when its data are loaded).
    """
    return [LocoTask(Path(root), name) for name in names or loco.found(Path(root))]
