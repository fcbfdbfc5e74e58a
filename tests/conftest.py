"""What every test runs under: shapes of core_ops checked, slow and gpu tests chosen, golden vectors counted."""

import pytest
from jaxtyping import install_import_hook

# Before the first import of core_ops: every annotated shape and dtype is checked at each call.
install_import_hook("farfield.core_ops", "beartype.beartype")

from tests.golden import summary  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    no_gpu = pytest.mark.skip(reason="needs a CUDA device; torch sees none here")
    not_asked = pytest.mark.skip(reason="slow; runs with --slow")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(not_asked)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(summary())
