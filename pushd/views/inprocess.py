"""Publishing from code of the daemon's own process that has no request, and last ids."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service

from pushd.views.threads import BlockingPublisher

# The publishers of the daemons in this process, the latest last. (Only tests have several.)
_running: list[BlockingPublisher] = []


class InProcess(Service):
    """Makes ``publish`` and ``last_id`` work while the daemon runs."""

    def __init__(self, publisher: BlockingPublisher) -> None:
        #: Publishes to the daemon, from any thread but the reactor's.
        self.publisher = publisher

    def startService(self) -> None:
        """Start."""
        super().startService()
        _running.append(self.publisher)

    def stopService(self) -> None:
        """Stop; do nothing if it was never started."""
        super().stopService()
        if self.publisher in _running:
            _running.remove(self.publisher)


def is_running() -> bool:
    """Whether a daemon runs in this process."""
    return bool(_running)


def publish(
    topic: str,
    data: str | bytes | dict[str, Any] | list[Any],
    *,
    event: str | None = None,
    delay: float | None = None,
    every: float | None = None,
    count: int | None = None,
) -> Any:
    """Publish to a topic, from any thread but the reactor's; see ``Request.publish``.

    Returns the publication's id or, if a time is given, a handle with ``cancel()``. Raises
    ValueError and TypeError like ``Request.publish``, and RuntimeError if no pushd runs in this
    process.
    """
    return _latest().publish(topic, data, event=event, delay=delay, every=every, count=count)


def last_id(topic: str) -> str:
    """Return a topic's last id, in any thread but the reactor's; see ``Request.last_id``.

    Raises ValueError for an invalid topic, Unavailable if the broker cannot be reached, and
    RuntimeError if no pushd runs in this process.
    """
    return _latest().last_id(topic)


def _latest() -> BlockingPublisher:
    if not _running:
        raise RuntimeError("no pushd runs in this process: pushd.publish reaches one elsewhere")
    return _running[-1]


def revoke(*, topic: str | None = None, subject: str | None = None) -> int:
    """End the subscriptions to a topic, or of a subject, from any thread but the reactor's.

    See ``Request.revoke``. Raises RuntimeError if no pushd runs in this process.
    """
    return _latest().revoke(topic, subject)
