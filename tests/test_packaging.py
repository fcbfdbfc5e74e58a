"""One installed name: from a wheel, from a bare checkout, from the root of the repository."""

import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent


def clean(**more: str) -> dict[str, str]:
    """The environment without a PYTHONPATH of this checkout."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | more


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    # setuptools packs what an earlier build left there.
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of a new environment that holds nothing but the wheel."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=True)
    interpreter = home / "bin" / "python"
    subprocess.run([interpreter, "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    return interpreter


def test_wheel_holds_farfield_alone_with_recipes_models_and_data(wheel):
    names = ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"farfield"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    shipped = [
        f
        for f in tracked
        if f.startswith(("recipes/", "models/", "apps/genomics/data/", "apps/retrieval/data/")) or f.endswith(".cuh")
    ]
    assert shipped
    assert {f"farfield/{f}" for f in shipped} <= set(names)
    assert not any("tests/" in n or "benchmarks/" in n for n in names)


def test_console_script_works_beside_a_foreign_apps_package(python, tmp_path):
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "__init__.py").write_text("raise ImportError('the foreign package was imported')")
    done = subprocess.run(
        [python.parent / "farfield", "--help"], cwd=tmp_path, env=clean(), capture_output=True, text=True, check=True
    )
    assert "genomics" in done.stdout
    for module in ("farfield", "farfield.apps.genomics"):
        done = subprocess.run(
            [python, "-m", module, "--help"], cwd=tmp_path, env=clean(), capture_output=True, text=True, check=True
        )
        assert "pretrain" in done.stdout


def test_an_object_made_elsewhere_is_unpickled(python, tmp_path):
    from farfield.apps.genomics.hyenadna import HyenaDNAConfig

    (tmp_path / "config.pickle").write_bytes(pickle.dumps(HyenaDNAConfig(d_model=48)))
    program = (
        "import pickle, farfield; print(pickle.load(open('config.pickle', 'rb')).d_model, list(farfield.__path__)[0])"
    )
    # Packages that farfield needs come from this environment; farfield itself from the wheel.
    env = clean(PYTHONPATH=sysconfig.get_paths()["purelib"])
    done = subprocess.run([python, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    d_model, where = done.stdout.split()
    assert d_model == "48"
    assert Path(where).is_relative_to(python.parent.parent)


@pytest.mark.parametrize(
    ("program", "path"),
    [
        ("import farfield.core_ops as c; c.fftconv", ".typing"),
        ("import core_ops as c; c.fftconv", ""),
        (
            "from importlib.resources import files; (files('farfield.recipes') / 'genomics/score.yaml').read_text()",
            ".typing",
        ),
    ],
)
def test_bare_checkout_works_without_installation(program, path):
    env = clean(PYTHONPATH=path) if path else clean()
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, check=True)


def test_import_from_the_root_computes(tmp_path):
    program = (
        "import torch, core_ops; print(core_ops.fftconv(torch.ones(1, 1, 3), torch.ones(1, 2)).flatten().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=clean(), capture_output=True, text=True, check=True
    )
    assert [round(v) for v in eval(done.stdout)] == [1, 2, 2]


def test_run_says_what_to_install(tmp_path):
    fake = tmp_path / "python"
    for answer, expected in [("exit 1", "3.10 to 3.13"), ('case "$2" in *ensurepip*) exit 1;; esac', "python3-venv")]:
        fake.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo Python 3.8.1 && exit\n{answer}\n")
        fake.chmod(0o755)
        env = clean(PYTHON=str(fake))
        done = subprocess.run([ROOT / "run", "tests"], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert expected in done.stderr
    missing = subprocess.run(
        [ROOT / "run", "tests"], env=clean(PYTHON="no-such-python"), capture_output=True, text=True, check=False
    )
    assert missing.returncode == 2
    assert "no-such-python" in missing.stderr
