"""Publishing from code of the daemon's own process that has no request, and last ids."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from datetime import datetime
from typing import Any

from twisted.application.service import Service

from pushd.topics.publisher import Publisher
from pushd.views.threads import BlockingPublisher

# The daemons in this process, the latest last. (Only tests have several.)
_running: list[InProcess] = []


class InProcess(Service):
    """Makes ``publish`` and ``last_id`` work while the daemon runs.

    :param publisher: publishes to the daemon, from any thread but the reactor's.
    :param direct: publishes to the daemon, in the reactor's thread.
    :param loop: asyncio's event loop, if the reactor runs on one.
    """

    def __init__(
        self,
        publisher: BlockingPublisher,
        direct: Publisher | None = None,
        loop: AbstractEventLoop | None = None,
    ) -> None:
        self.publisher = publisher
        self.direct = direct
        self.loop = loop

    def startService(self) -> None:
        """Start."""
        super().startService()
        _running.append(self)

    def stopService(self) -> None:
        """Stop; do nothing if it was never started."""
        super().stopService()
        if self in _running:
            _running.remove(self)


def is_running() -> bool:
    """Whether a daemon runs in this process."""
    return bool(_running)


def publish(
    topic: str,
    data: str | bytes | dict[str, Any] | list[Any],
    *,
    event: str | None = None,
    delay: float | None = None,
    at: datetime | None = None,
    every: float | None = None,
    count: int | None = None,
) -> Any:
    """Publish to a topic, from any thread but the reactor's; see ``Request.publish``.

    Returns the publication's id or, if a time is given, a handle with ``cancel()``. Raises
    ValueError and TypeError like ``Request.publish``, and RuntimeError if no pushd runs in this
    process.
    """
    return _latest().publish(topic, data, event=event, delay=delay, at=at, every=every, count=count)


def last_id(topic: str) -> str:
    """Return a topic's last id, in any thread but the reactor's; see ``Request.last_id``.

    Raises ValueError for an invalid topic, Unavailable if the broker cannot be reached, and
    RuntimeError if no pushd runs in this process.
    """
    return _latest().last_id(topic)


def _latest() -> BlockingPublisher:
    if not _running:
        raise RuntimeError("no pushd runs in this process: pushd.publish reaches one elsewhere")
    return _running[-1].publisher


def find_publisher(loop: AbstractEventLoop) -> Publisher | None:
    """Return the publisher of the daemon that runs on this event loop; None if none does."""
    for daemon in reversed(_running):
        if daemon.loop is loop:
            return daemon.direct
    return None


def revoke(*, topic: str | None = None, subject: str | None = None) -> int:
    """End the subscriptions to a topic, or of a subject, from any thread but the reactor's.

    See ``Request.revoke``. Raises RuntimeError if no pushd runs in this process.
    """
    return _latest().revoke(topic, subject)
