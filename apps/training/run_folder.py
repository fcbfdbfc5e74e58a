"""Where a run keeps everything it writes: runs/<domain>/<verb>/<time>/."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from farfield.apps.training.atomic import atomic_write
from farfield.apps.training.errors import UserError
from farfield.apps.training.manifest import About, CorruptCheckpoint, checkpoint_folders, read_about, verify
from farfield.apps.training.metrics import read_metrics

# Processes that a multi-device run starts run the same command line: they must find the first one's folder.
_SHARED_FOLDER = "FARFIELD_RUN_FOLDER"


def process_rank() -> int:
    """Number of this process among those of a multi-device run, from the launcher's environment; 0 when alone."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


class RunFolder:
    """A run's config.yaml, environment.json, metrics.jsonl, tensorboard/ and checkpoints/.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.environment_file = self.path / "environment.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def create(
        cls, domain: str, verb: str, config: Mapping[str, Any] | None = None, root: str | Path = "runs"
    ) -> RunFolder:
        """Make `root/domain/verb/<time>/`, with config.yaml when a config is given, and environment.json.

        Args:
            domain: genomics, retrieval, ...
            verb: pretrain, score, ...
            config: Composed config of plain values; its `seed` goes to environment.json too.
            root: Where runs are kept.

        Returns:
            A folder that no other run has: within one second later ones get a suffix, -2, -3, ...

        Raises:
            UserError: The root cannot be written to.
        """
        if process_rank() > 0:
            return cls(os.environ.get(_SHARED_FOLDER, Path(root) / domain / verb))
        parent = Path(root).absolute() / domain / verb
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        number = 1
        while True:
            folder = cls(parent / (stamp if number == 1 else f"{stamp}-{number}"))
            try:
                folder.path.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
            except OSError as error:
                raise UserError(f"no run folder can be made in {parent} ({error}); choose another place") from error
        os.environ[_SHARED_FOLDER] = str(folder.path)
        if config is not None:
            folder.write_config(config)
        folder.write_environment(seed=(config or {}).get("seed"))
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run folder.

        Raises:
            UserError: There is none at the path; the message names the runs that lie near.
        """
        folder = cls(Path(path).absolute())
        if folder.config_file.is_file() or folder.environment_file.is_file() or folder.checkpoints.is_dir():
            return folder
        near = folder.path if folder.path.is_dir() else folder.path.parent
        found = sorted(str(p.parent) for p in near.glob("**/environment.json")) if near.is_dir() else []
        hint = f"; near it: {', '.join(found[-3:])}" if found else ""
        raise UserError(
            f"{path} is no run folder (no config.yaml, environment.json or checkpoints/ in it){hint};"
            " give the folder that the run printed, runs/<domain>/<verb>/<time>"
        )

    @contextmanager
    def alone(self, patience: float = 10.0) -> Iterator[None]:
        """Hold the folder for this process; the hold ends with the block, or with the process however it ends.

        Args:
            patience: Seconds to wait: data workers of a killed run hold the folder until they notice.

        Raises:
            UserError: Another process holds it.
        """
        import fcntl

        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDONLY)
        end = time.monotonic() + patience
        try:
            while not _locked(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
                if time.monotonic() > end:
                    raise UserError(
                        f"another process is training in {self.path}; wait for it, stop it, or choose another folder"
                    )
                time.sleep(0.2)
            yield
        finally:
            os.close(handle)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml in one step; paths become text, an OmegaConf config is resolved first."""
        import yaml  # type: ignore[import-untyped, unused-ignore]

        if process_rank() == 0:
            atomic_write(self.config_file, yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True))

    def config(self) -> dict[str, Any]:
        """Content of config.yaml.

        Raises:
            UserError: It is missing or no YAML mapping.
        """
        import yaml

        try:
            config = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self.config_file} is missing: the run cannot be continued without its config") from None
        except yaml.YAMLError as error:
            raise UserError(f"{self.config_file} is no valid YAML: {error}") from error
        if not isinstance(config, dict):
            raise UserError(f"{self.config_file} holds no mapping of keys to values; restore the file the run wrote")
        return config

    def write_environment(self, **facts: Any) -> None:
        """Write environment.json: versions, platform, commit, start; a second call adds to `facts` and `sessions`.

        Args:
            facts: More that the run knows: seed, device, precision, step that it starts from.
        """
        if process_rank() > 0:
            return
        known = self.environment()
        session = environment() | {k: v for k, v in facts.items() if v is not None}
        # Only what differs from the first session is worth a second line.
        changes = {key: value for key, value in session.items() if known.get(key) != value and key in known}
        if known and set(changes) - {"started"}:
            known["sessions"] = [*known.get("sessions", []), changes]
        atomic_write(self.environment_file, json.dumps(session | known, indent=1, default=str) + "\n")

    def environment(self) -> dict[str, Any]:
        """Content of environment.json; empty when there is none."""
        try:
            return dict(json.loads(self.environment_file.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError):
            return {}

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl: dicts with `step`, `time` and the metrics of that step."""
        return read_metrics(self.metrics_file)

    def last_checkpoint(self) -> Path | None:
        """Newest checkpoint whose files are what was written; damaged ones are named in a warning and passed over."""
        for folder in reversed(checkpoint_folders(self.checkpoints)):
            if _good(folder):
                return folder
        return None

    def best_checkpoint(self) -> Path | None:
        """Checkpoint with the best monitored value whose files are what was written.

        Returns:
            The newest one when nothing was monitored; None when there is none at all.
        """
        for folder in ranked(self.checkpoints):
            if _good(folder):
                return folder
        return self.last_checkpoint()


def ranked(checkpoints: Path) -> list[Path]:
    """Checkpoints that hold a monitored value, best first; of equal ones the older first. Only manifests are read."""
    found = []
    for folder in checkpoint_folders(checkpoints):
        try:
            about = read_about(folder)
        except CorruptCheckpoint:
            continue
        if about.value is not None:
            found.append((about.value if about.mode == "min" else -about.value, folder))
    return [folder for _, folder in sorted(found, key=lambda pair: pair[0])]


def environment() -> dict[str, Any]:
    """What decides a run's numbers beside its config: versions, platform, commit."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "farfield": _version("farfield"),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "lightning": _version("lightning"),
        "numpy": _version("numpy"),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "command": sys.argv,
    }


def _locked(handle: int, how: int) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network file systems have no locks: there, nothing guards the folder.
        if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.EBADF, errno.EINVAL):
            raise
    return True


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    if commit := os.environ.get("FARFIELD_COMMIT"):
        return commit
    root = Path(__file__).resolve().parents[2]
    # An installed package may lie inside someone else's repository: only our own checkout counts.
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _plain(value: Any) -> Any:
    if type(value).__module__.startswith("omegaconf"):
        from omegaconf import OmegaConf

        return _plain(OmegaConf.to_container(value, resolve=True))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _good(folder: Path) -> About | None:
    try:
        return verify(folder)
    except CorruptCheckpoint as error:
        warnings.warn(f"{error}; passed over", stacklevel=3)
        return None
