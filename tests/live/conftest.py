"""What all that runs as a process of its own is to have."""

from __future__ import annotations

from signal import SIG_IGN, SIGHUP, SIGINT, getsignal, signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def heeded_signals() -> None:
    """Let processes heed their signals, also where the tests run with nohup or in the background.

    A signal that is ignored here is ignored by those that we start; one that does nothing is not.
    """
    for number in (SIGINT, SIGHUP):
        if getsignal(number) is SIG_IGN:
            signal(number, lambda number, frame: None)
