"""The command line, `farfield DOMAIN VERB [overrides]`: finds domain and verb, composes the recipe, calls the verb.

Importing this package loads neither torch nor Hydra: help has to be quick.
"""

import sys
from collections.abc import Sequence

from farfield.apps.training.errors import Interrupted, UserError

from .help import domain_help, domains, top_help, verb_help
from .nearest import unknown

FLAGS = ("--help", "--version", "--completion", "--cfg", "--multirun", "--config-dir")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0 on success only, 2 for a user's mistake, 130 after Ctrl-C."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"farfield: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"farfield: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("farfield: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (head, less) has left; keep Python from complaining again at exit.
        sys.stdout = None
        return 141


def _dispatch(words: list[str]) -> int:
    if "--version" in words:
        from importlib.metadata import version

        print(f"farfield {version('farfield')}")
        return 0
    if "--completion" in words:
        from .completion import script

        print(script(_after(words, "--completion", "bash, zsh or fish")))
        return 0
    asks_help = bool({"-h", "--help"} & set(words))
    words = [w for w in words if w not in ("-h", "--help")]
    if not words:
        print(top_help())
        return 0 if asks_help else 2
    domain, *words = words
    if domain not in domains():
        raise UserError(unknown("domain", domain, domains(), "farfield --help lists them"))
    if not words:
        print(domain_help(domain))
        return 0 if asks_help else 2
    verb, *words = words
    verbs = domains()[domain]
    if verb not in verbs:
        raise UserError(unknown(f"verb of {domain}", verb, verbs, f"farfield {domain} --help lists them"))
    if asks_help:
        print(verb_help(domain, verb))
        return 0
    from .launch import launch

    return launch(domain, verb, verbs[verb], *_options(words))


def _after(words: list[str], flag: str, accepted: str) -> str:
    """The word that follows a flag; taken out of the list together with it."""
    at = words.index(flag)
    if at + 1 == len(words):
        raise UserError(f"{flag} needs a value: {accepted}")
    value = words[at + 1]
    del words[at : at + 2]
    return value


def _options(words: list[str]) -> tuple[list[str], bool, bool, str | None]:
    """Split the words behind the verb into overrides, --cfg job, --multirun and --config-dir."""
    show = "--cfg" in words
    if show and (what := _after(words, "--cfg", "job")) != "job":
        raise UserError(f"--cfg {what}: only 'job' can be shown; Hydra's own settings are not used here")
    folder = _after(words, "--config-dir", "a folder of recipes") if "--config-dir" in words else None
    sweep = bool({"-m", "--multirun"} & set(words))
    overrides = [w for w in words if w not in ("-m", "--multirun")]
    for word in overrides:
        if word.startswith("-"):
            raise UserError(unknown("option", word, FLAGS, "settings are written key=value"))
        if "=" not in word and not word.startswith("~"):
            raise UserError(f"{word!r} is not a setting: write key=value, for example seed=1")
    return overrides, show, sweep, folder
