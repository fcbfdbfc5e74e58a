"""SIGTERM as Ctrl-C."""

import os
import signal

import pytest

from farfield.apps.training.signals import terminable


def test_sigterm_is_a_keyboard_interrupt_inside_and_only_there():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as stop, terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.args == (signal.SIGTERM,)
    assert signal.getsignal(signal.SIGTERM) == before


def test_where_it_is_ignored_it_stays_so():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
