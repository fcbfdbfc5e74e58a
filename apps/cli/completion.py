"""Completion scripts, generated from the recipes: domains, verbs, then the keys and groups of that verb."""

import re

from farfield.apps.training.errors import UserError

from .help import domains, groups, recipe
from .nearest import unknown

BASH = """_farfield() {{
    local line=${{COMP_LINE:0:COMP_POINT}} words=""
    local cur=${{line##* }}
    compopt -o nospace 2>/dev/null
    if [ "$COMP_CWORD" -eq 1 ]; then words="{domains}"; compopt +o nospace 2>/dev/null
    else case "${{COMP_WORDS[1]}}:$([ "$COMP_CWORD" -gt 2 ] && echo "${{COMP_WORDS[2]}}")" in
{cases}
    esac; fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    # Bash breaks words at '=', so only what follows it is replaced.
    [[ $cur == *=* ]] && COMPREPLY=("${{COMPREPLY[@]#"${{cur%=*}}="}}")
    return 0
}}
complete -F _farfield farfield"""


def script(shell: str) -> str:
    """The completion script of one shell, to be sourced: `source <(farfield --completion bash)`."""
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in scripts:
        raise UserError(unknown("completion for", shell, scripts, "(bash, zsh and fish have one)"))
    return scripts[shell]()


def _keys(domain: str, verb: str) -> list[str]:
    """Top-level keys of a verb and `group=option` words."""
    top = re.findall(r"^(\w+):", recipe(domain, verb).read_text(encoding="utf-8"), flags=re.M)
    choices = [f"{group}={option}" for group, names in groups(domain).items() for option in names]
    return [f"{key}=" for key in top if key != "defaults"] + choices + ["--help", "--multirun", "--cfg"]


def _bash() -> str:
    cases = []
    for domain, verbs in domains().items():
        cases.append(f'    {domain}:) words="{" ".join(verbs)} --help"; compopt +o nospace 2>/dev/null;;')
        cases += [f'    {domain}:{verb}) words="{" ".join(_keys(domain, verb))}";;' for verb in verbs]
    return BASH.format(domains=" ".join([*domains(), "--help", "--version"]), cases="\n".join(cases))


def _zsh() -> str:
    return "autoload -U +X bashcompinit && bashcompinit\n" + _bash()


def _fish() -> str:
    lines = [f"complete -c farfield -f -n '__fish_use_subcommand' -a '{' '.join(domains())}'"]
    for domain, verbs in domains().items():
        none_yet = f"__fish_seen_subcommand_from {domain}; and not __fish_seen_subcommand_from {' '.join(verbs)}"
        lines.append(f"complete -c farfield -f -n '{none_yet}' -a '{' '.join(verbs)}'")
        for verb in verbs:
            seen = f"__fish_seen_subcommand_from {domain}; and __fish_seen_subcommand_from {verb}"
            lines.append(f"complete -c farfield -f -n '{seen}' -a '{' '.join(_keys(domain, verb))}'")
    return "\n".join(lines)
