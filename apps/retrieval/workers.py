"""Ray Data embeds a corpus over many workers: shards that come back in any order and go into one index in theirs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farfield.apps.retrieval import shards
from farfield.apps.retrieval.collection import digest_of
from farfield.apps.retrieval.encoder import load_encoder
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.retrieval.collection import Collection
    from farfield.apps.retrieval.document import Document

Settings = dict[str, Any]


class ShardEncoder:
    """What one worker does: it loads the encoder once, then makes the vectors of shard after shard.

    Args:
        folder: Of the shards, as the worker sees it.
        settings: Of the encoder, as the index keeps them.
        digest: Of its fingerprint; the worker's own has to have it.
        policy, device, precision: As of ingest.
    """

    def __init__(self, folder: str, settings: Settings, digest: str, policy: str, device: str, precision: str) -> None:
        self._folder, self._policy = Path(folder), policy
        self._wrong = ""
        try:
            self._encoder = load_encoder(**settings, device=device, precision=precision)
            if digest_of(self._encoder) != digest:
                self._wrong = f"the encoder {settings['path']} of a worker is not the one of the index"
        except UserError as error:
            self._wrong = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row of a shard, with what went wrong."""
        wrong = self._wrong
        try:
            if not wrong:
                shards.encode(self._folder, row["name"], self._encoder, self._policy)  # type: ignore[arg-type]
        except UserError as error:
            wrong = str(error)
        return {**row, "wrong": wrong}


def embed(
    collection: Collection,
    batches: Iterable[Sequence[Document]],
    *,
    settings: Settings,
    workers: int,
    cluster: str | None,
    device: str,
    precision: str,
) -> Iterator[tuple[list[Document], tuple[str, ...]]]:
    """Write documents into an index, their vectors made by many workers.

    Args:
        collection: The index.
        batches: Documents that it does not hold as they are; encoded in the batches in which one process would.
        settings: Of its encoder, for the workers to load.
        workers: How many.
        cluster: Address of a Ray cluster whose machines see the folder of the index and the encoder at the same path;
            None starts Ray on this machine.
        device, precision: As of ingest; with cuda every worker has a GPU.
    Yields: Documents that are in the index now, and ids of those of which some text is in no vector. Shards lie in
        `<index>.shards` until all are in the index: what was made before an interruption is taken from there.
    Raises: UserError: Ray is not installed or not reached, or a worker cannot encode.
    """
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise UserError(f"workers={workers}: a whole number from 1 on is accepted, null is this process alone")
    folder = collection.folder.absolute().with_name(f"{collection.folder.name}.shards")
    policy, digest = collection.store.meta("policy"), collection.view().digest
    planned = shards.plan(folder, batches, digest, policy)
    done, at = set[str](), 0
    with _ray(workers, cluster, device) as started:
        for row in _rows(started, planned, workers, device, (str(folder), settings, digest, policy, device, precision)):
            if row["wrong"]:
                raise UserError(f"{row['wrong']}. What other workers made is kept in {folder}")
            done.add(row["name"])
            # In the order of the plan: the index is the one that a single process makes.
            while at < len(planned) and planned[at] in done:
                yield from _taken(collection, folder, planned[at])
                at += 1
    shards.remove(folder, planned)


def _taken(collection: Collection, folder: Path, name: str) -> Iterator[tuple[list[Document], tuple[str, ...]]]:
    made = shards.vectors(folder, name)
    if made is None:
        raise UserError(f"{folder / name}{shards.VECTORS} is damaged; the same command makes it again")
    for batch in shards.documents(folder, name):
        encoded, made = made[: len(batch)], made[len(batch) :]
        yield batch, collection.put(batch, encoded).truncated


def _rows(
    ray: Any, planned: Sequence[str], workers: int, device: str, arguments: tuple[Any, ...]
) -> Iterator[dict[str, Any]]:
    """The rows of shards in the order in which workers finish them."""
    if not planned:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = [{"name": name} for name in planned]
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    gpus = 1 if device.startswith("cuda") else 0
    strategy = ray.data.ActorPoolStrategy(size=min(workers, len(rows)))
    yield from data.map(
        ShardEncoder, fn_constructor_args=arguments, compute=strategy, num_cpus=1, num_gpus=gpus
    ).iter_rows()


@contextmanager
def _ray(workers: int, cluster: str | None, device: str) -> Iterator[Any]:
    """Ray, started for the block or joined."""
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise UserError(f"workers={workers} needs Ray: pip install 'farfield[ray]'") from error
    # Processes of Ray import what this one imports, wherever they start; nothing is reported to anyone.
    told = {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path), "RAY_USAGE_STATS_ENABLED": "0"}
    before = {name: os.environ.get(name) for name in told}
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    local = quiet if cluster else {**quiet, "num_cpus": workers}
    mine = not ray.is_initialized()
    os.environ.update(told)
    try:
        if mine:
            ray.init(address=cluster or "local", **local)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise UserError(f"cluster={cluster}, workers={workers}: {str(error).strip().splitlines()[-1]}") from error
    finally:
        if mine:
            ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
