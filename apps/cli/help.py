"""Help of each level, read from the recipes: what a verb does stands in the header of its YAML and nowhere else."""

import pkgutil
from functools import cache
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable

DOMAINS = {
    "genomics": "DNA at a million tokens (HyenaDNA)",
    "retrieval": "search over whole documents (M2-BERT)",
    "forecasting": "long-horizon forecasts (SpaceTime)",
    "physics": "fast surrogates of simulations (GraphSplineNets)",
}


@cache
def domains() -> dict[str, dict[str, str]]:
    """Installed domains in the order of DOMAINS, each with its verbs: {domain: {verb: "module:function"}}."""
    import farfield.apps as apps

    installed = {module.name for module in pkgutil.iter_modules(apps.__path__)}
    return {d: dict(import_module(f"farfield.apps.{d}").VERBS) for d in DOMAINS if d in installed}


def recipe(domain: str, name: str) -> Traversable:
    """The YAML file of a verb, or of an option of a group ("model/tiny-1k")."""
    return files(f"farfield.recipes.{domain}").joinpath(f"{name}.yaml")


def header(domain: str, name: str) -> list[str]:
    """The comment lines that open a recipe."""
    lines = recipe(domain, name).read_text(encoding="utf-8").splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:end] if not line.startswith("# @package")]


def groups(domain: str) -> dict[str, list[str]]:
    """Groups of a domain and their options: {"model": ["tiny-1k", ...]}."""
    root = files(f"farfield.recipes.{domain}")
    return {
        folder.name: sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
        for folder in sorted(root.iterdir(), key=lambda f: f.name)
        if folder.is_dir() and not folder.name.startswith("_")
    }


def top_help() -> str:
    """Help of `farfield` itself."""
    rows = [f"  {d:<12} {DOMAINS[d]}: {', '.join(verbs)}" for d, verbs in domains().items()]
    first = next(iter(domains()))
    return "\n".join(
        [
            "farfield DOMAIN VERB [key=value ...]: sub-quadratic long-context models for scientists",
            "",
            "Domains and their verbs:",
            *rows,
            "",
            "Options:",
            "  --help              help of this level: of farfield, of a domain, of a verb",
            "  --cfg job           print the composed settings and stop",
            "  --multirun          run every combination of comma-separated values: seed=1,2,3",
            "  --config-dir DIR    search DIR for recipes too: experiment=mine reads DIR/experiment/mine.yaml",
            "  --completion SHELL  print the completion script for bash, zsh or fish",
            "  --version",
            "",
            f"Example: farfield {first} {next(iter(domains()[first]))} --help",
        ]
    )


def domain_help(domain: str) -> str:
    """Help of `farfield DOMAIN`: its verbs, its groups, an example."""
    verbs = [f"  {verb:<10} {header(domain, verb)[0]}" for verb in domains()[domain]]
    options = [f"  {group}= {', '.join(names)}" for group, names in groups(domain).items()]
    return "\n".join(
        [
            f"farfield {domain} VERB [key=value ...]: {DOMAINS[domain]}",
            "",
            "Verbs:",
            *verbs,
            "",
            "Groups of settings:",
            *options,
            "",
            f"Example: {_example(domain, next(iter(domains()[domain])))}",
        ]
    )


def verb_help(domain: str, verb: str) -> str:
    """Help of `farfield DOMAIN VERB`: the header of its recipe, then its defaults as they stand there."""
    text = recipe(domain, verb).read_text(encoding="utf-8").splitlines()
    head = header(domain, verb)
    settings = "\n".join(text[len(head) :]).strip().splitlines()
    return "\n".join(
        [
            f"farfield {domain} {verb} [key=value ...]",
            "",
            *head,
            "",
            "Settings and their defaults (??? has to be given; 'defaults' names the groups):",
            *(f"  {line}" for line in settings),
        ]
    )


def _example(domain: str, verb: str) -> str:
    commands = [line.strip() for line in header(domain, verb) if line.strip().startswith("farfield ")]
    return commands[0] if commands else f"farfield {domain} {verb} --help"
