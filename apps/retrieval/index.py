"""`farfield retrieval index`: build, merge, verify, repair, compact, snapshot, migrate."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from farfield.apps.retrieval import maintain
from farfield.apps.retrieval.ann import KINDS
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.encoder import load_encoder
from farfield.apps.retrieval.opening import encoder_settings, open_index
from farfield.apps.retrieval.progress import duration, progress_bar
from farfield.apps.retrieval.segment import Segment
from farfield.apps.retrieval.verify import repair, verify
from farfield.apps.training.errors import UserError

ACTIONS = ("build", "merge", "verify", "repair", "compact", "snapshot", "migrate")


def index(
    *,
    run_folder: Path,
    index: str,
    action: str,
    kind: str | None,
    encoder: str | None,
    window: int | None,
    overlap: int,
    out: str | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> Path:
    """Take care of an index.

    Args:
        run_folder: Where the run notes its settings.
        index: Folder of the index.
        action: build (one segment of all), merge (vectors in memory into segments), verify, repair, compact (build, and
            give space back), snapshot (a copy, to out), migrate (to another encoder).
        kind: Of build: auto, flat, hnsw, ivf-flat, ivf-pq; None is what the index has.
        encoder: Of migrate the new one; of repair where the index's own lies now.
        window, overlap: Of migrate: tokens of a window, and those it shares with the next.
        out: Of snapshot: the new folder.
        device, precision, seed: As everywhere.
        resume: Run folder to continue: migrate goes on with the documents that have no new vectors yet.
    Returns: The folder of the index, or of the snapshot.
    Raises: UserError: a setting is wrong, or verify found damage.
    """
    if action not in ACTIONS:
        raise UserError(f"action={action}: {', '.join(ACTIONS)} are accepted")
    if kind is not None and (kind not in KINDS or action != "build"):
        raise UserError(f"kind={kind}: {', '.join(KINDS)} are accepted, with action=build")
    if action == "snapshot" and out is None:
        raise UserError("action=snapshot needs out=..., the folder of the copy")
    if action == "migrate" and encoder is None:
        raise UserError("action=migrate needs encoder=..., the folder of the model to move to")
    folder = Path(index)
    began = time.monotonic()
    if action == "verify":
        _verify(folder)
    elif action == "repair":
        _repair(folder, encoder, window, overlap, device, precision)
    else:
        own = None if action == "migrate" else encoder
        with open_index(str(folder), own, window, overlap, device, precision) as collection:
            if action == "snapshot":
                folder = Path(str(out))
                maintain.snapshot(collection.store, folder)
            elif action == "migrate":
                settings = encoder_settings(encoder, window, overlap)
                made = load_encoder(**settings, device=device, precision=precision)
                with progress_bar("migrate", max(len(collection), 1), "documents") as at:
                    maintain.migrate(collection, made, settings, lambda done, total: at(done))
            else:
                _rewrite(collection, action, kind)
            _tell(collection)
    print(f"{folder}: {action} took {duration(time.monotonic() - began)}")
    return folder


def _rewrite(collection: Collection, action: str, kind: str | None) -> None:
    with progress_bar(action, max(collection.view().rows, 1), "vectors") as at:
        tell: Callable[[int, int], None] = lambda done, total: at(done)  # noqa: E731
        if action == "build":
            maintain.build(collection, kind, tell)
        elif action == "merge":
            maintain.merge(collection, tell)
        else:
            maintain.compact(collection, tell)


def _verify(folder: Path) -> None:
    with progress_bar("verify", 1, "documents") as at:
        damage = verify(folder, lambda done, total: at(done / total))
    if damage:
        lines = "\n  ".join(map(str, damage))
        raise UserError(
            f"{len(damage)} found:\n  {lines}\nfarfield retrieval index index={folder} action=repair saves what it can"
        )
    print(f"{folder}: every file, document and vector is what was written")


def _repair(folder: Path, encoder: str | None, window: int | None, overlap: int, device: str, precision: str) -> None:
    made = None
    if encoder is not None:
        made = load_encoder(**encoder_settings(encoder, window, overlap), device=device, precision=precision)
    mended, left = repair(folder, made)
    for damage in mended:
        print(f"mended: {damage}")
    if left:
        lines = "\n  ".join(map(str, left))
        raise UserError(
            f"not mended:\n  {lines}\ndocuments with damaged text: ingest them again; with missing vectors: repair with"
            " encoder=..., the folder of the index's encoder"
        )
    if not mended:
        print(f"{folder}: nothing to mend")


def _tell(collection: Collection) -> None:
    view = collection.refresh()
    segments = [part for part in view.parts if isinstance(part, Segment)]
    size = sum(path.stat().st_size for path in collection.folder.rglob("*") if path.is_file())
    kinds = ", ".join(f"{part.kind} of {part.n:,}" for part in segments) or "none"
    print(
        f"{len(collection):,} documents, {view.rows:,} vectors; segments: {kinds}; in memory: {view.parts[-1].n:,};"
        f" {size / 1e6:,.1f} MB on disk"
    )
