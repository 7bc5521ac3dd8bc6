"""What systemd is told of the daemon (sd_notify(3)): nothing where it does not ask."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall

# How often the status is told, in seconds, where no watchdog wants to hear of us more often.
_INTERVAL = 10.0


class Notifier(Service):
    """Tells systemd when the daemon is ready, reloads and stops, that it lives, and who is here.

    That it lives comes from the reactor: one that is blocked says nothing, and is restarted.

    :param reactor: whose life it is.
    :param environ: where systemd says how it wants to be told: ``NOTIFY_SOCKET``,
        ``WATCHDOG_USEC`` and ``WATCHDOG_PID``. Without the first, nothing is done at all.
    :param count: how many connections there are.
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
        self._watched = watchdog is not None
        # Half of what it has patience for, as sd_watchdog_enabled(3) recommends.
        self._interval = min(_INTERVAL, watchdog / 2) if watchdog is not None else _INTERVAL
        self._count = count
        self._monotonic = monotonic
        self._state = "serving"
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        """Say that the daemon is ready once its reactor runs, as its doors are open by then."""
        super().startService()
        if self._address is not None:
            self._reactor.callWhenRunning(self._begin)

    def stopService(self) -> None:
        """Say no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        super().stopService()

    def stopping(self, seconds: float) -> None:
        """Say that the daemon stops, and that it will take so many seconds at most."""
        self._state = "closing"
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000:.0f}", self._status())

    def reloading(self) -> None:
        """Say that the options are being read again; ``ready`` says that they were."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={self._monotonic() * 1_000_000:.0f}")

    def ready(self) -> None:
        """Say that all is as it should be."""
        self._tell("READY=1", self._status())

    def _begin(self) -> None:
        self.ready()
        self._go_on()

    def _go_on(self) -> None:
        """Say that the daemon lives, now and again."""
        self._tell(*(["WATCHDOG=1"] if self._watched else []), self._status())
        self._call = self._reactor.callLater(self._interval, self._go_on)

    def _status(self) -> str:
        count = self._count()
        return f"STATUS={self._state} {count} connection{'' if count == 1 else 's'}"

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        # A systemd that is gone or busy is none of our business; it is told again soon.
        with (
            suppress(OSError),
            socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK) as notify,
        ):
            notify.sendto("\n".join(lines).encode(), self._address)


def read_address(environ: Mapping[str, str]) -> str | None:
    """Give the address of systemd's socket; None where there is none of a kind that we speak to.

    One that begins with an @ has no file: it is abstract, as unix(7) calls it.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        return f"\0{address[1:]}"
    return address if address.startswith("/") else None


def read_watchdog(environ: Mapping[str, str], pid: int) -> float | None:
    """Give the seconds within which systemd wants to hear of us; None where it does not."""
    usec = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(usec) / 1_000_000 if usec.isascii() and usec.isdigit() and int(usec) else None
