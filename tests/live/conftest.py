"""Fixtures of the tests with real processes."""

from __future__ import annotations

from signal import SIG_IGN, SIGHUP, SIGINT, getsignal, signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def heeded_signals() -> None:
    """Do not let processes started here inherit ignored signals, as from nohup.

    A process inherits that a signal is ignored, but not a handler that does nothing.
    """
    for number in (SIGINT, SIGHUP):
        if getsignal(number) is SIG_IGN:
            signal(number, lambda number, frame: None)
