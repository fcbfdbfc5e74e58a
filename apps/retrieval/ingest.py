"""`farfield retrieval ingest`: files become documents of an index; what is there already is passed over."""

from __future__ import annotations

import json
import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from farfield.apps.retrieval import parsers
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import TruncationWarning, load_encoder
from farfield.apps.retrieval.opening import encoder_settings, open_index, scan_device, stored_settings
from farfield.apps.retrieval.progress import duration, progress_bar
from farfield.apps.retrieval.store import FILE
from farfield.apps.retrieval.workers import embed
from farfield.apps.training.atomic import atomic_write
from farfield.apps.training.errors import Interrupted, UserError
from farfield.apps.training.signals import terminable

ON_ERROR = ("stop", "skip")
# Documents and characters of one transaction: what a kill -9 costs at most.
BATCH_DOCUMENTS, BATCH_CHARACTERS = 64, 200_000
# Characters that are encoded to estimate the time of all.
SAMPLE = 20_000


@dataclass
class Plan:
    """What a look at all files found: ids new, changed, unchanged; characters of each to encode, and some of them."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    lengths: list[int] = field(default_factory=list)
    sample: list[str] = field(default_factory=list)
    sampled: int = 0
    skipped: list[str] = field(default_factory=list)

    @property
    def characters(self) -> int:
        """Of all that is new or changed."""
        return sum(self.lengths)


def ingest(
    *,
    run_folder: Path,
    data: str,
    index: str,
    encoder: str | None,
    window: int | None,
    overlap: int,
    policy: str | None,
    kind: str | None,
    on_error: str,
    workers: int | None,
    cluster: str | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> Path:
    """Write the documents of a file or folder into an index, which is made if it is not there.

    Args:
        run_folder: Where ingest.json is written: what was done, and what was passed over.
        data: A file, or a folder whose files are read: text, Markdown, HTML, PDF, JSON lines.
        index: Folder of the index.
        encoder: Folder of a sentence-transformers model; None is the one of the index, for a new one minilm.
        window, overlap: Tokens of a window, and those it shares with the next; of a new index.
        policy: What becomes of texts that are longer than a window: error, warn, chunk, truncate; None is that of the
            index, for a new one chunk.
        kind: auto, flat, hnsw, ivf-flat, ivf-pq; None is that of the index, for a new one auto.
        on_error: stop at a file or record that is no document, or skip it and say so.
        workers: Processes of Ray that encode; None is this process alone.
        cluster: Address of a Ray cluster; None starts Ray on this machine.
        device, precision, seed: As everywhere; nothing is drawn at random.
        resume: Run folder to continue: documents that are in the index already are passed over, as always.
    Returns: The folder of the index.
    Raises: UserError: a file, record or setting is wrong. Interrupted: Ctrl-C came; what was written stays.
    """
    if on_error not in ON_ERROR:
        raise UserError(f"on_error={on_error}: {', '.join(ON_ERROR)} are accepted")
    files = parsers.files(Path(str(data)))
    folder = Path(str(index))
    if (folder / FILE).exists():
        collection = open_index(str(folder), encoder, window, overlap, device, precision)
        _check_kept(collection, policy=policy, kind=kind)
    else:
        settings = encoder_settings(encoder, window, overlap)
        made = load_encoder(**settings, device=device, precision=precision)
        how = {"kind": kind or "auto", "policy": policy or "chunk", "device": scan_device(device)}
        collection = Collection.create(folder, made, settings, **how)
    done = 0
    with collection, terminable():
        try:
            plan = look(collection, files, on_error)
            tell(collection, plan, workers or 1)
            with progress_bar("ingest", max(plan.characters, 1), "characters") as at:
                truncated: list[str] = []
                characters = 0
                batches = _batches(collection, files)
                if workers is None:
                    writes = _write(collection, batches)
                else:
                    writes = embed(
                        collection,
                        batches,
                        settings=encoder_settings(encoder, window, overlap) if encoder else stored_settings(collection),
                        workers=workers,
                        cluster=cluster,
                        device=device,
                        precision=precision,
                    )
                for batch, cut in writes:
                    truncated += cut
                    done += len(batch)
                    characters += sum(len(document.text) for document in batch)
                    at(min(characters, plan.characters))
        except KeyboardInterrupt as stop:
            signum = stop.args[0] if stop.args else signal.SIGINT
            raise Interrupted(signum, run_folder, done, "document") from None
        facts = {
            "documents": len(collection),
            "new": plan.new,
            "replaced": plan.changed,
            "unchanged": plan.unchanged,
            "truncated": truncated,
            "skipped": plan.skipped,
        }
    atomic_write(run_folder / "ingest.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    print(
        f"{folder}: {facts['documents']:,} documents; {plan.new:,} new, {plan.changed:,} replaced,"
        f" {plan.unchanged:,} unchanged"
    )
    if truncated:
        print(f"{len(truncated):,} texts are cut: ingest.json lists them, what was cut is in no vector")
    return folder


def _check_kept(collection: Collection, **given: str | None) -> None:
    """Raises UserError where a setting is given that an index has otherwise."""
    for name, value in given.items():
        kept = collection.store.meta(name)
        if value is not None and value != kept:
            collection.close()
            other = (
                "ingest into a new folder" if name == "policy" else f"build it anew: index action=build kind={value}"
            )
            raise UserError(
                f"{name}={value}: {collection.folder} was made with {name}={kept}; leave {name} out, or {other}"
            )


def look(collection: Collection, files: list[tuple[Path, str]], on_error: str) -> Plan:
    """Read everything once, without encoding: what has to be done.

    Raises: UserError: a file is no document and on_error is stop, or one id stands for two documents.
    """
    plan = Plan()
    seen: dict[str, tuple[bytes, str]] = {}
    for path, id in files:
        try:
            for document in parsers.documents(path, id):
                digest = document.digest
                earlier = seen.setdefault(document.id, (digest, str(path)))
                if earlier != (digest, str(path)) and earlier[0] != digest:
                    raise UserError(
                        f"{path}: id {document.id!r} stands for another text in {earlier[1]}; ids have to differ"
                    )
                if earlier[0] == digest and earlier[1] != str(path):
                    continue
                known = collection.store.digests([document.id]).get(document.id)
                if known == digest:
                    plan.unchanged += 1
                    continue
                plan.new, plan.changed = plan.new + (known is None), plan.changed + (known is not None)
                plan.lengths.append(len(document.text))
                if document.text and plan.sampled < SAMPLE:
                    plan.sample.append(document.text[:SAMPLE])
                    plan.sampled += len(plan.sample[-1])
        except parsers.Unreadable as error:
            if on_error == "stop":
                raise UserError(f"{error} (on_error=skip passes over such files)") from error
            plan.skipped.append(str(error))
    return plan


def _write(
    collection: Collection, batches: Iterable[list[Document]]
) -> Iterator[tuple[list[Document], tuple[str, ...]]]:
    """Documents that are in the index now, and ids of those of which some text is in no vector."""
    for batch in batches:
        with warnings.catch_warnings():
            # What is cut is listed at the end.
            warnings.simplefilter("ignore", TruncationWarning)
            cut = collection.add(batch).truncated
        yield batch, cut


def tell(collection: Collection, plan: Plan, workers: int = 1) -> None:
    """Say what is to be done and how long it will take."""
    for line in plan.skipped[:10]:
        print(f"skipped: {line}")
    if len(plan.skipped) > 10:
        print(f"... and {len(plan.skipped) - 10} more, in ingest.json")
    counts = f"{plan.new:,} new, {plan.changed:,} changed, {plan.unchanged:,} unchanged documents"
    if not plan.characters:
        print(f"{counts}; nothing to encode")
        return
    encoder, sampled = collection.encoder, plan.sampled
    # The first call of a model takes longer than those that follow.
    encoder.encode([plan.sample[0][:100]], policy="chunk")
    began = time.monotonic()
    encoder.encode(plan.sample, policy="chunk")
    rate = workers * sampled / (time.monotonic() - began)
    characters, counting = plan.characters, 0.0
    if collection.store.meta("policy") in ("truncate", "warn"):
        # All of a text is cut into tokens, its first window is encoded.
        began = time.monotonic()
        window = encoder.max_tokens * sampled / max(sum(encoder.count_tokens(plan.sample)), 1)
        counting = (time.monotonic() - began) * plan.characters / sampled / workers
        characters = int(sum(min(length, window) for length in plan.lengths))
    time_of_all = f"about {duration(characters / rate + counting)} at {rate:,.0f} characters/s"
    print(f"{counts}; {characters:,} characters to encode, {time_of_all}", flush=True)


def _batches(collection: Collection, files: list[tuple[Path, str]]) -> Iterator[list[Document]]:
    """Documents that the index does not hold as they are, some at a time."""
    batch: dict[str, Document] = {}
    for path, id in files:
        try:
            for document in parsers.documents(path, id):
                if collection.store.digests([document.id]).get(document.id) == document.digest:
                    continue
                batch[document.id] = document
                if len(batch) >= BATCH_DOCUMENTS or sum(len(d.text) for d in batch.values()) >= BATCH_CHARACTERS:
                    yield list(batch.values())
                    batch = {}
        except parsers.Unreadable:
            # `look` has said so, or stopped.
            continue
    if batch:
        yield list(batch.values())
