"""The daemon of this process, for code that nobody hands a request to."""

from __future__ import annotations

from typing import Any

from pushd.threads import BlockingPublisher

# The publishers of the daemons that run here, the latest last: one, but for tests.
_running: list[BlockingPublisher] = []


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
            "no pushd runs in this process: pushd.client.publish takes the control door"
        )
    return _running[-1].publish(topic, data, delay=delay, every=every, count=count)


def started(publisher: BlockingPublisher) -> None:
    """Take note of a daemon that runs from now on."""
    _running.append(publisher)


def stopped(publisher: BlockingPublisher) -> None:
    """Take note that it does no more; nothing happens if it did not."""
    if publisher in _running:
        _running.remove(publisher)
