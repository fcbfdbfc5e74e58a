"""One verb, one or many runs: settings, run folder, call."""

import inspect
import shutil
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from farfield.apps.training.errors import Interrupted, UserError

from .compose import Settings, composed, resumed, sweep


def launch(
    domain: str, verb: str, target: str, overrides: list[str], show: bool, many: bool, folder: str | None
) -> int:
    """Compose and run; `show` prints the settings instead. Returns 0, every failure is an exception."""
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"--config-dir {folder}: there is no such folder")
    jobs = sweep(overrides) if many else [overrides]
    settings = [_settings(domain, verb, job, folder) for job in jobs]
    if show:
        from omegaconf import OmegaConf

        print("---\n".join(OmegaConf.to_yaml(OmegaConf.create(s)) for s in settings), end="")
        return 0
    function = _function(target)
    from farfield.apps.training.run_folder import RunFolder

    for i, (words, values) in enumerate(zip(jobs, settings, strict=True)):
        if many:
            print(f"[{i + 1}/{len(jobs)}] {' '.join(words)}")
        resume = values.get("resume")
        wanted = set(inspect.signature(function).parameters) - {"run_folder"}
        if set(values) != wanted:
            raise UserError(
                f"resume={resume}: that run is of another verb or version, its settings are {', '.join(values)};"
                f" farfield {domain} {verb} has {', '.join(sorted(wanted))}"
            )
        run = RunFolder.open(resume) if resume else RunFolder.create(domain, verb, values)
        print(f"run folder: {run.path}", file=sys.stderr)
        _call(function, run.path, values, new=not resume)
    return 0


def _call(function: Callable[..., Any], folder: Path, settings: Settings, new: bool) -> None:
    """Run a verb; a mistake that is found before anything was done leaves no folder behind."""
    try:
        function(run_folder=folder, **settings)
    except UserError:
        if new and {path.name for path in folder.iterdir()} <= {"config.yaml", "environment.json"}:
            shutil.rmtree(folder)
        raise
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT, folder, 0) from None


def _settings(domain: str, verb: str, words: list[str], folder: str | None) -> Settings:
    """Composed settings; those of the earlier run where resume=<run folder> is given."""
    resume = [w.partition("=")[2] for w in words if w.startswith("resume=")]
    if not resume or resume[-1] in ("", "null"):
        return composed(domain, verb, words, folder)
    stored = Path(resume[-1]) / "config.yaml"
    if not stored.is_file():
        raise UserError(
            f"resume={resume[-1]}: that is not a run folder (no config.yaml in it); name runs/{domain}/{verb}/<time>"
        )
    return resumed(domain, verb, [w for w in words if not w.startswith("resume=")], stored) | {"resume": resume[-1]}


def _function(target: str) -> Callable[..., Any]:
    module, name = target.split(":")
    try:
        function: Callable[..., Any] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("farfield", ""):
            raise
        domain = module.split(".")[2]
        raise UserError(f"this verb needs the package {package!r}: pip install 'farfield[{domain}]'") from error
    return function
