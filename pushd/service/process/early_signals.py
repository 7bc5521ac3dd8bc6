"""SIGHUP while the daemon is imported: noted, as by default it would kill the process.

This module must import nothing that takes time: it is imported before the rest.
"""

from __future__ import annotations

import signal
from threading import current_thread, main_thread

#: The signals that have come, until ``Signals`` handles them itself.
noted: list[int] = []


def note_hangups() -> None:
    """Note SIGHUP from now on, unless it is ignored or handled already."""
    # Python allows handlers in the main thread only.
    if current_thread() is main_thread() and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda number, frame: noted.append(number))
