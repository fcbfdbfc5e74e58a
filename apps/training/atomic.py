"""Files and folders that are there whole or not at all, whatever kills the process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp-"


def fsync_path(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; at a normal exit it takes the place of `path`.

    Args:
        path: File that appears, or is replaced, in one step after the block.

    Raises:
        OSError: The folder cannot be written to. After any exception `path` is as it was and nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp makes files that only the owner reads; a result has the permissions of any other file.
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write(path: str | Path, data: str | bytes) -> None:
    """Write a file in one step: temporary file in the same folder, fsync, rename, fsync of the folder.

    Args:
        path: File to create or replace; missing parent folders are made.
        data: Content; text is written as UTF-8.

    Raises:
        OSError: The folder cannot be written to; `path` is then as it was.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; at a normal exit it is renamed to `path`, every file on disk.

    Args:
        path: Folder to publish; one that is already there is replaced.

    Raises:
        OSError: The parent cannot be written to. After any exception nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent))
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for entry in sorted(temporary.rglob("*"), reverse=True):
            fsync_path(entry)
        fsync_path(temporary)
        if path.exists():
            # A folder cannot be renamed over one with content: the old one steps aside under a temporary name.
            aside = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}old-{path.name}-", dir=path.parent))
            path.rename(aside / path.name)
            temporary.rename(path)
            shutil.rmtree(aside)
        else:
            temporary.rename(path)
        fsync_path(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Remove what a killed process left half-written in a folder and below; call it before anyone else writes there.

    Args:
        folder: Folder that only this process writes to.

    Returns:
        What was removed.
    """
    leftovers = sorted(Path(folder).rglob(f"{TEMPORARY}*"))
    for entry in leftovers:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return leftovers


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
