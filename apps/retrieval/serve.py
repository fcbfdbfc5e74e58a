"""`farfield retrieval serve`: an index behind HTTP, with a page."""

from __future__ import annotations

import ipaddress
import logging
import os
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.encoder import load_encoder
from farfield.apps.retrieval.opening import encoder_settings, scan_device
from farfield.apps.retrieval.service import service
from farfield.apps.retrieval.service_guard import Limits, Meter
from farfield.apps.retrieval.serving_encoder import ServingEncoder, Unloadable
from farfield.apps.training.errors import UserError
from farfield.apps.training.memory import kept_memory

log = logging.getLogger(__name__)
TOKEN = "FARFIELD_TOKEN"
# Seconds that an idle connection stays open: longer than clients and proxies keep theirs.
KEEP_ALIVE = 75


def serve(
    *,
    run_folder: Path,
    index: str,
    host: str,
    port: int,
    limits: dict[str, Any],
    encoder: str | None,
    window: int | None,
    overlap: int,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> None:
    """Answer until SIGINT or SIGTERM comes; requests at work are finished.

    Args:
        run_folder: Where the run notes its settings.
        index: Folder of an index that is there.
        host, port: Where to listen. Anything but loopback needs a bearer token in the variable FARFIELD_TOKEN.
        limits: body (bytes), batch, tokens, concurrency, seconds: of a request, as of `Limits`.
        encoder, window, overlap: Where the index's encoder lies now; None is where it was.
        device, precision, seed: As everywhere.
        resume: Nothing to continue; named for all verbs alike.
    Raises: UserError: a setting is wrong, the token is missing, or the port is taken.
    """
    import uvicorn

    token = os.environ.get(TOKEN) or None
    if token is None and not _loopback(host):
        raise UserError(f"host={host}: anyone who reaches this machine could write; set {TOKEN} to a secret first")
    if unknown := set(limits) - {field.name for field in fields(Limits)}:
        raise UserError(f"limits.{unknown.pop()}: {', '.join(field.name for field in fields(Limits))} are accepted")
    if bad := [name for name, value in limits.items() if not value > 0]:
        raise UserError(f"limits.{bad[0]}={limits[bad[0]]}: a number above 0 is accepted")

    # The first load is of the encoder that is named; one that another process migrates to is where that one says.
    named = [] if encoder is None else [encoder_settings(encoder, window, overlap)]

    def load(settings: dict[str, Any]) -> ServingEncoder:
        place = named.pop() if named else settings
        try:
            queries, documents = (load_encoder(**place, device=device, precision=precision) for _ in range(2))
        except UserError as error:
            log.error("%s", error)
            raise Unloadable(str(error)) from error
        return ServingEncoder(queries, documents)

    # Before the first thread starts.
    with kept_memory(one_heap=True), Collection.open(index, load=load, device=scan_device(device)) as collection:
        meter = Meter()
        app = service(collection, Limits(**limits), token, meter)
        how: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_keep_alive": KEEP_ALIVE}
        server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, **how))
        failures: list[Exception] = []

        def warm() -> None:
            """Load the encoder before the first search comes; /health says so meanwhile."""
            try:
                collection.encoder.encode_queries(["warm"])
                meter.loaded.set()
                print(f"{len(collection):,} documents at http://{host}:{port}/", flush=True)
            except Exception as error:
                failures.append(error)
                server.should_exit = True

        loading = threading.Thread(target=warm, name="loading")
        loading.start()
        try:
            server.run()
        except SystemExit as error:
            raise UserError(f"port={port}: it cannot be listened on at {host}; choose another") from error
        finally:
            loading.join()
        if failures:
            raise failures[0]


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
