"""The command line: help, completion, composition, mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from farfield.apps.cli import main
from farfield.apps.cli.help import domains, groups, header
from farfield.apps.training.errors import Interrupted

BARE = {"PYTHONPATH": ".typing", "PATH": "/usr/bin:/bin"}


def run(*words: str) -> tuple[int, str]:
    """Exit code and standard output of a separate process."""
    command = [sys.executable, "-m", "farfield", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=BARE, check=False)
    return done.returncode, done.stdout


def settings(capsys, *words: str) -> dict:
    assert main(["genomics", "score", "fasta=x.fa", "--cfg", "job", *words]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def mistake(capsys, *words: str) -> str:
    """The single line on standard error of a command that exits with 2."""
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("farfield: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("words", [(), ("genomics",), ("genomics", "pretrain")])
def test_help_of_every_level_loads_no_heavy_library(words):
    code, out = run(*words, "--help")
    assert code == 0
    assert "Example" in out or "farfield genomics pretrain" in out
    loaded = "print({'torch', 'hydra', 'lightning'} & set(sys.modules))"
    probe = f"import sys; from farfield.apps.cli import main; main(sys.argv[1:]); {loaded}"
    command = [sys.executable, "-c", probe, *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=BARE, check=True)
    assert done.stdout.rstrip().endswith("set()")


def test_help_names_every_verb_with_its_header():
    for domain, verbs in domains().items():
        _, out = run(domain, "--help")
        for verb in verbs:
            assert f"{verb} " in out
            assert header(domain, verb)[0] in out


def test_verb_help_shows_defaults_and_the_command():
    code, out = run("genomics", "score", "--help")
    assert code == 0
    assert "fasta: ???" in out
    assert "farfield genomics score" in out


def test_without_words_the_help_comes_with_an_error_code():
    assert run()[0] == 2
    assert run("genomics")[0] == 2


def test_module_of_the_domain_is_the_same_command():
    command = [sys.executable, "-m", "farfield.apps.genomics", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=BARE, check=True)
    assert done.stdout == run("genomics", "--help")[1]


def test_overrides_reach_the_settings(capsys):
    assert settings(capsys, "seed=7")["seed"] == 7
    assert settings(capsys)["fasta"] == "x.fa"


def test_multirun_takes_every_combination(capsys):
    assert main(["genomics", "score", "fasta=a.fa,b.fa", "seed=1,2", "--cfg", "job", "-m"]) == 0
    shown = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [(s["fasta"], s["seed"]) for s in shown] == [("a.fa", 1), ("a.fa", 2), ("b.fa", 1), ("b.fa", 2)]


def test_recipes_of_ones_own_are_found(capsys, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 11\n")
    assert settings(capsys, "--config-dir", str(tmp_path), "+experiment=mine")["seed"] == 11


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("genomcs",), "genomics"),
        (("genomics", "scor"), "score"),
        (("genomics", "score", "fasta=x", "sed=1"), "'seed'"),
        (("genomics", "score", "fasta=x", "+sed=1"), "'seed'"),
        (("genomics", "score", "fasta=x", "seed=one"), "a whole number"),
        (("genomics", "score", "fasta=x", "seed=1,2"), "--multirun"),
        (("genomics", "score"), "fasta=..."),
        (("genomics", "score", "fasta=x", "--mutirun"), "--multirun"),
        (("genomics", "score", "x.fa"), "key=value"),
        (("genomics", "score", "fasta=x", "--cfg", "hydra"), "job"),
        (("genomics", "score", "fasta=x", "--cfg"), "job"),
        (("genomics", "score", "fasta=x", "seed=[1"), "quote"),
        (("genomics", "score", "fasta=x", "--config-dir", "nowhere"), "no such folder"),
        (("genomics", "pretrain", "model=tiny-1kk"), "'tiny-1k'"),
        (("genomics", "pretrain", "d_model=64"), "'model.d_model'"),
        (("genomics", "pretrain", "model.d_modle=64"), "'model.d_model'"),
        (("genomics", "pretrain", "resume=nowhere"), "run folder"),
        (("--completion", "tcsh"), "bash"),
    ],
)
def test_a_mistake_gets_one_line_that_names_the_way_out(capsys, monkeypatch, tmp_path, words, named):
    monkeypatch.chdir(tmp_path)
    assert named in mistake(capsys, *words)
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"


def test_an_interrupted_run_exits_with_its_signal(monkeypatch, tmp_path, capsys):
    def stopped(*args: object) -> int:
        raise Interrupted(15, tmp_path, 3)

    monkeypatch.setattr("farfield.apps.cli.launch.launch", stopped)
    assert main(["genomics", "score", "fasta=x"]) == 143
    assert f"resume={tmp_path}" in capsys.readouterr().err


@pytest.fixture
def run_of_score(tmp_path, monkeypatch) -> Path:
    """A folder with an empty run of score in it."""
    monkeypatch.chdir(tmp_path)
    settings = {"fasta": "x.fa", "bed": None, "seed": 1}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "old"


def test_a_run_of_another_verb_or_version_is_refused(capsys, run_of_score):
    assert "another verb or version" in mistake(capsys, "genomics", "pretrain", f"resume={run_of_score}")


def test_a_mistake_found_by_the_verb_leaves_no_run_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["genomics", "score", "fasta=nowhere.fa"]) == 2
    err = capsys.readouterr().err
    assert "run folder: " in err
    assert "no such file" in err
    assert not list((tmp_path / "runs").rglob("*.yaml"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("farfield gen", ["genomics"]),
        ("farfield genomics pre", ["pretrain"]),
        ("farfield genomics score fas", ["fasta="]),
        ("farfield genomics pretrain model=tiny-16", ["tiny-16k-d128"]),
    ],
)
def test_bash_completes_domains_verbs_keys_and_options(line, expected):
    words = line.split(" ")
    script = (
        run("--completion", "bash")[1]
        + f"""
COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}
_farfield; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_verb_and_key(shell):
    _, out = run("--completion", shell)
    for domain, verbs in domains().items():
        assert domain in out
        for verb in verbs:
            assert verb in out
        for group, options in groups(domain).items():
            assert all(f"{group}={option}" in out for option in options)
