"""The daemon of this process, for code that nobody hands a request to."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service

from pushd.views.threads import BlockingPublisher

# The publishers of the daemons that run here, the latest last: one, but for tests.
_running: list[BlockingPublisher] = []


class InProcess(Service):
    """Lets code of this process publish as long as it runs."""

    def __init__(self, publisher: BlockingPublisher) -> None:
        self._publisher = publisher

    def startService(self) -> None:
        """Begin."""
        super().startService()
        _running.append(self._publisher)

    def stopService(self) -> None:
        """End it; nothing happens where it did not begin."""
        super().stopService()
        if self._publisher in _running:
            _running.remove(self._publisher)


def publish(
    topic: str,
    data: str | bytes,
    *,
    delay: float | None = None,
    every: float | None = None,
    count: int | None = None,
) -> Any:
    """Publish to a topic, from any thread but the reactor's; see ``Request.publish``.

    Gives the publication's id, or with a time a handle that has ``cancel()``. Raises ValueError
    and TypeError as that does, and RuntimeError in a process in which no pushd runs.
    """
    if not _running:
        raise RuntimeError(
            "no pushd runs in this process: pushd.client.publish takes the control port"
        )
    return _running[-1].publish(topic, data, delay=delay, every=every, count=count)
