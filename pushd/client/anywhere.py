"""``pushd.publish`` and ``pushd.last_id``: to the daemon of this process, or by a request to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import ModuleType
from typing import Any

from pushd.client.client import Client
from pushd.errors import Refused, Unavailable, Unreachable
from pushd.topics.publication import Id

# The variable with the URL of the control port, and its default: that of a pushd on this machine.
_VARIABLE = "PUSHD_CONTROL_URL"
_DEFAULT = "http://127.0.0.1:8081"

# Seconds that each step of a request may take: a page or a command waits for it.
_TIMEOUT = 5.0


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
    """Publish to a topic, from any process; see ``Request.publish``.

    In the process of pushd this is ``pushd.views.publish``, for any thread but the reactor's. In
    others, such as a task queue or another server, it is a request to the control port at the
    environment variable ``PUSHD_CONTROL_URL``, by default ``http://127.0.0.1:8081``.

    Returns the publication's id. If a time is given, it returns a handle with ``cancel()`` in
    pushd's process, and in others the id of the schedule at the control port. Raises ValueError and
    TypeError like ``Request.publish``, Unavailable if pushd or its Redis cannot be reached, and
    Refused if pushd refuses for another reason.
    """
    daemon = find_daemon()
    if daemon is not None:
        return daemon.publish(
            topic, data, event=event, delay=delay, at=at, every=every, count=count
        )
    return publish_at(
        control_url(), topic, data, event=event, delay=delay, at=at, every=every, count=count
    )


def last_id(topic: str) -> str:
    """Return the id with which a page that is made now subscribes to a topic, in any process.

    It is that of the topic's newest publication, or the one before the first; a subscription after
    it misses nothing, for as long as publications are kept (``--history-ttl``). Raises ValueError
    for an invalid topic, and Unavailable and Refused like ``publish``.
    """
    daemon = find_daemon()
    if daemon is not None:
        id: str = daemon.last_id(topic)
        return id
    return last_id_at(control_url(), topic)


def find_daemon() -> ModuleType | None:
    """Return ``pushd.views.inprocess`` if a daemon runs in this process, else None.

    It is not imported: if a daemon runs, it is there, and other processes need no Twisted.
    """
    inprocess = sys.modules.get("pushd.views.inprocess")
    return inprocess if inprocess is not None and inprocess.is_running() else None


def control_url() -> str:
    """Return the URL of the control port from the environment, or its default."""
    return os.environ.get(_VARIABLE, _DEFAULT)


def publish_at(
    url: str, topic: str, data: str | bytes | dict[str, Any] | list[Any], **options: Any
) -> Any:
    """Publish by a request to a control port; return the id, or that of the schedule."""
    with _translated(f"not published to {topic}"):
        answer = Client(url, timeout=_TIMEOUT).publish(topic, data, **options)
    return Id.parse(answer["id"]) if "id" in answer else answer["schedule"]


def last_id_at(url: str, topic: str) -> str:
    """Ask a control port for a topic's last id."""
    with _translated(f"no last id of {topic}"):
        return Client(url, timeout=_TIMEOUT).last_id(topic)


def revoke_at(url: str, topic: str | None, subject: str | None) -> int:
    """Ask a control port to end subscriptions; return how many it has ended."""
    with _translated("not revoked"):
        return Client(url, timeout=_TIMEOUT).revoke(topic=topic, subject=subject)


@contextmanager
def _translated(failure: str) -> Iterator[None]:
    """Raise for a failed request what the same call raises in the process of pushd."""
    try:
        yield
    except Unreachable as error:
        raise Unavailable(f"{failure}: {error} ({_VARIABLE})") from error
    except Refused as error:
        if error.status == 503:
            raise Unavailable(f"{failure}: {error}") from error
        if error.status == 400:
            raise ValueError(str(error)) from error
        raise
