"""From command-line words to plain settings: Hydra composes, mistakes get one message that names the nearest key."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from farfield.apps.training.errors import UserError

from .help import groups
from .nearest import unknown

Settings = dict[str, Any]
# What may replace a default of each type, and how a message calls it.
KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str, int, float), "text"),
    list: ((list,), "a list"),
    dict: ((dict,), "a group of settings"),
}


def composed(domain: str, verb: str, overrides: list[str], folder: str | None = None) -> Settings:
    """The settings of one run as plain Python values.

    Raises: UserError: a key, option or value that does not exist or does not parse, a required one missing.
    """
    config = _compose(domain, verb, overrides, folder)
    chosen = [o.input_line for o in _parse(overrides) if o.key_or_group in groups(domain)]
    defaults = _compose(domain, verb, chosen, folder)
    known = _flat(_plain(defaults))
    if extra := sorted(set(_flat(_plain(config))) - set(known)):
        raise UserError(unknown(f"setting of {domain} {verb}", extra[0], known, _where(domain, verb)))
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{domain} {verb} needs {missing[0]}=...: see farfield {domain} {verb} --help")
    settings = _plain(config)
    _check_types(settings, _plain(defaults), "")
    return settings


def resumed(domain: str, verb: str, overrides: list[str], stored: Path) -> Settings:
    """The settings of an earlier run with some of them changed."""
    try:
        base = OmegaConf.load(stored)
    except (OSError, OmegaConfBaseException) as error:
        raise UserError(f"resume={stored.parent}: its settings cannot be read ({error}); name a run folder") from error
    assert isinstance(base, DictConfig)
    OmegaConf.set_struct(base, True)
    settings = _plain(base)
    for override in _parse(overrides):
        key = str(override.key_or_group)
        if OmegaConf.select(base, key, default=OmegaConf) is OmegaConf:
            raise UserError(unknown("setting of that run", key, _flat(settings), f"they stand in {stored}"))
        OmegaConf.update(base, key, override.value(), merge=True)
    changed = _plain(base)
    _check_types(changed, settings, "")
    return changed


def sweep(overrides: list[str]) -> list[list[str]]:
    """Every combination of swept values, the last key fastest: [["seed=1"], ["seed=2"]] for ["seed=1,2"]."""
    runs: list[list[str]] = [[]]
    for override in _parse(overrides):
        swept = override.is_sweep_override()
        values = override.sweep_string_iterator() if swept else ()
        words = [f"{override.key_or_group}={value}" for value in values] or [override.input_line]
        runs = [[*run, word] for run in runs for word in words]
    return runs


def _parse(overrides: list[str]) -> list[Any]:
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except (OverrideParseException, HydraException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot read the settings given: {reason} (quote values with spaces or commas)") from error


def _compose(domain: str, verb: str, overrides: list[str], folder: str | None) -> DictConfig:
    for override in _parse(overrides):
        if override.is_sweep_override():
            word = override.input_line
            raise UserError(f"{word}: several values need --multirun (or quote the value: '{word}')")
    search = [f"hydra.searchpath=[file://{Path(folder).resolve()}]"] if folder else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(f"farfield.recipes.{domain}", version_base="1.3", job_name=verb):
            return compose(verb, overrides=[*search, *overrides])
    except (ConfigCompositionException, HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(domain, verb, overrides, str(error).strip())) from error


def _explain(domain: str, verb: str, overrides: list[str], message: str) -> str:
    known = set(_flat(_plain(_compose(domain, verb, [], None))))
    options = groups(domain)
    for override in _parse(overrides):
        key, value = str(override.key_or_group), override.value()
        if key in options and isinstance(value, str) and value not in options[key] and "Could not find" in message:
            return unknown(f"{key} of {domain}", value, options[key], _where(domain, verb))
        if key in message and key not in known and key not in options:
            return unknown(f"setting of {domain} {verb}", key, known | set(options), _where(domain, verb))
    return f"the settings of {domain} {verb} do not compose: {message.splitlines()[0]}"


def _where(domain: str, verb: str) -> str:
    return f"(farfield {domain} {verb} --cfg job shows them all)"


def _plain(config: DictConfig) -> Settings:
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def _flat(settings: Settings, prefix: str = "") -> list[str]:
    """Dotted names of all keys, groups included: model, model.d_model, ..."""
    names: list[str] = []
    for key, value in settings.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, dict):
            names += _flat(value, f"{prefix}{key}.")
    return names


def _check_types(settings: Settings, defaults: Settings, prefix: str) -> None:
    """A number stays a number, a switch a switch: a default of null accepts anything."""
    for key, default in defaults.items():
        value = settings.get(key)
        if isinstance(default, dict) and isinstance(value, dict):
            _check_types(value, default, f"{prefix}{key}.")
        elif default is not None and value is not None and default != "???":
            kind = type(default)
            accepted, expected = KINDS[kind]
            if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
                name = f"{prefix}{key}"
                raise UserError(f"{name}={value}: {expected} is expected, for example {name}={default}")
