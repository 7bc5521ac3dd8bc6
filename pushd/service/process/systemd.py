"""Notifications to systemd: ready, reloading, stopping, status and watchdog (sd_notify(3))."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall

# Seconds between two updates of the status, unless a watchdog needs more frequent notifications.
_INTERVAL = 10.0


class Notifier(Service):
    """Notifies systemd of the daemon's state, of the number of connections, and its watchdog.

    The watchdog is notified from the reactor, so systemd restarts a daemon whose reactor is
    blocked. Without ``NOTIFY_SOCKET`` in the environment, nothing is done at all.

    :param environ: the environment, with ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and
        ``WATCHDOG_PID``.
    :param count: returns the number of open connections.
    :param monotonic: seconds of CLOCK_MONOTONIC.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        environ: Mapping[str, str],
        count: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._address = read_address(environ)
        watchdog = read_watchdog(environ, os.getpid())
        self._has_watchdog = watchdog is not None
        # Half of the watchdog's time-out, as sd_watchdog_enabled(3) recommends.
        self._interval = min(_INTERVAL, watchdog / 2) if watchdog is not None else _INTERVAL
        self._count = count
        self._monotonic = monotonic
        self._state = "serving"
        self._refused = False
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        """Notify systemd once the reactor runs; the ports are open by then."""
        super().startService()
        if self._address is not None:
            self._reactor.callWhenRunning(self._begin)

    def stopService(self) -> None:
        """Send no further notifications."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        super().stopService()

    def stopping(self, seconds: float) -> None:
        """Notify systemd that the daemon stops, which takes at most the given seconds."""
        self._state = "draining"
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000:.0f}", self._status())

    def reloading(self) -> None:
        """Notify systemd that a reload has begun; ``ready`` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic() * 1_000_000:.0f}")

    def ready(self, *, refused: bool = False) -> None:
        """Notify systemd that the daemon is ready.

        :param refused: True after a reload that has changed nothing, which the status then tells.
        """
        self._refused = refused
        self._send("READY=1", self._status())

    def _begin(self) -> None:
        self.ready()
        self._tick()

    def _tick(self) -> None:
        """Update the status, notify the watchdog, and set the timer for the next time."""
        self._send(*(["WATCHDOG=1"] if self._has_watchdog else []), self._status())
        self._call = self._reactor.callLater(self._interval, self._tick)

    def _status(self) -> str:
        count = self._count()
        status = f"STATUS={self._state} {count} connection{'' if count == 1 else 's'}"
        return f"{status}; the last reload was refused" if self._refused else status

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        # If systemd is gone or busy, the next notification will do.
        with (
            suppress(OSError),
            socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK) as notify,
        ):
            notify.sendto("\n".join(lines).encode(), self._address)


def read_address(environ: Mapping[str, str]) -> str | None:
    """Return the address of systemd's socket; None without one, or with one of another kind.

    An address that begins with @ is in the abstract namespace (unix(7)).
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        return f"\0{address[1:]}"
    return address if address.startswith("/") else None


def read_watchdog(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the watchdog's time-out in seconds; None if this process is not watched."""
    usec = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(usec) / 1_000_000 if usec.isascii() and usec.isdigit() and int(usec) else None
