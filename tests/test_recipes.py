"""Every recipe composes, says what it is, and fits the function that it calls."""

import inspect
import re
from importlib import import_module
from importlib.resources import files

import pytest
import yaml

from farfield.apps.cli.compose import composed
from farfield.apps.cli.help import domains, groups, header

VERBS = [(domain, verb) for domain, verbs in domains().items() for verb in verbs]
OPTIONS = [(d, g, o) for d in domains() for g, options in groups(d).items() for o in options]
SHARED_KEYS = {"data", "fasta", "vcf", "bed", "checkpoint", "out", "device", "precision", "seed", "resume", "budget"}


def required(domain: str, verb: str) -> list[str]:
    """Words that fill in the settings without a default."""
    text = (files(f"farfield.recipes.{domain}") / f"{verb}.yaml").read_text()
    return [f"{key}=given" for key in re.findall(r"^(\w+): \?\?\?", text, flags=re.M)]


@pytest.mark.parametrize(("domain", "verb"), VERBS)
def test_settings_are_the_arguments_of_the_verb(domain, verb):
    settings = composed(domain, verb, required(domain, verb))
    module, name = domains()[domain][verb].split(":")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    assert set(parameters) == set(settings) | {"run_folder"}
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())


@pytest.mark.parametrize(("domain", "verb"), VERBS)
def test_header_says_what_the_command_and_the_cost_are(domain, verb):
    text = "\n".join(header(domain, verb))
    assert re.search(rf"^ +farfield {domain} {verb}\b", text, flags=re.M)
    assert len(header(domain, verb)[0]) <= 100


@pytest.mark.parametrize(("domain", "group", "option"), OPTIONS)
def test_every_option_of_a_group_composes_in_some_verb(domain, group, option):
    assert header(domain, f"{group}/{option}"), "a recipe opens with a comment"
    texts = {v: (files(f"farfield.recipes.{domain}") / f"{v}.yaml").read_text() for v in domains()[domain]}
    users = [v for v, text in texts.items() if re.search(rf"^ +- (override |optional )?{group}:", text, flags=re.M)]
    assert users, f"no verb of {domain} has the group {group}"
    for verb in users:
        composed(domain, verb, [f"{group}={option}", *required(domain, verb)])


@pytest.mark.parametrize(("domain", "group", "option"), [x for x in OPTIONS if x[1] == "experiment"])
def test_what_an_experiment_sets_holds(domain, group, option):
    said = yaml.safe_load((files(f"farfield.recipes.{domain}") / f"{group}/{option}.yaml").read_text())
    texts = {v: (files(f"farfield.recipes.{domain}") / f"{v}.yaml").read_text() for v in domains()[domain]}
    for verb in (v for v, text in texts.items() if f"{group}:" in text):
        settings = composed(domain, verb, [f"{group}={option}", *required(domain, verb)])
        plain = {k: v for k, v in said.items() if k != "defaults" and not isinstance(v, dict)}
        assert {k: settings[k] for k in plain} == plain


@pytest.mark.parametrize("domain", list(domains()))
def test_no_recipe_names_code(domain):
    def keys(node: object) -> set[str]:
        if isinstance(node, dict):
            return set(node) | {k for v in node.values() for k in keys(v)}
        return {k for v in node for k in keys(v)} if isinstance(node, list) else set()

    folder = files(f"farfield.recipes.{domain}")
    names = [f"{g}/{o}" for g, options in groups(domain).items() for o in options] + list(domains()[domain])
    for name in names:
        assert not {k for k in keys(yaml.safe_load((folder / f"{name}.yaml").read_text())) if str(k).startswith("_")}


@pytest.mark.parametrize(("domain", "verb"), VERBS)
def test_seed_and_device_are_settings_of_every_verb(domain, verb):
    settings = composed(domain, verb, required(domain, verb))
    assert {"device", "precision", "seed", "resume"} <= set(settings)
    near = {"file", "input", "output", "ckpt", "dtype", "weights", "genome", "outfile", "save"}
    assert not near & set(settings), f"a shared key has another name: use {sorted(SHARED_KEYS)}"
