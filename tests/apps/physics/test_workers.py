"""Processes that share a list: all items come back, a process that dies is told, nothing is left running."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from farfield.apps.physics.workers import spread
from farfield.apps.training import UserError

pytestmark = pytest.mark.slow


def write_name(item: str, advance: Callable[[float], None]) -> None:
    advance(0.5)
    Path(item).write_text(str(os.getpid()))


def die(item: str, advance: Callable[[float], None]) -> None:
    os._exit(9)


def refuse(item: str, advance: Callable[[float], None]) -> None:
    raise UserError(f"{item} is wrong")


def test_every_item_is_made_by_some_process(tmp_path: Path) -> None:
    items = [str(tmp_path / str(i)) for i in range(5)]
    assert sorted(spread(write_name, items, 2)) == items
    makers = {int(Path(item).read_text()) for item in items}
    assert os.getpid() not in makers
    for maker in makers:
        with pytest.raises(ProcessLookupError):
            os.kill(maker, 0)


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(UserError, match="fewer workers"):
        list(spread(die, ["a", "b"], 2))


def test_a_mistake_comes_back_as_it_is() -> None:
    with pytest.raises(UserError, match=r"^a is wrong$"):
        list(spread(refuse, ["a"], 1))
