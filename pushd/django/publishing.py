"""Publishing from any process of a Django site: in pushd's own, or by a request to it."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core import mail

from pushd import client
from pushd.errors import Refused, Unavailable, Unreachable
from pushd.topics.publication import Id
from pushd.views import inprocess

# The setting with the URL of the control port, and its default: that of a pushd on this machine.
# With None, nothing is sent.
_SETTING = "PUSHD_CONTROL_URL"
_DEFAULT = "http://127.0.0.1:8081"

# Seconds that each step of a request may take: a page or a command waits for it.
_TIMEOUT = 5.0


def publish(
    topic: str,
    data: str | bytes | dict[str, Any] | list[Any],
    *,
    event: str | None = None,
    delay: float | None = None,
    every: float | None = None,
    count: int | None = None,
) -> Any:
    """Publish to a topic, from any process of the site; see ``Request.publish``.

    In the process of pushd this is ``pushd.views.publish``. In others, such as ``manage.py``, a
    task queue or another server, it is a request to the control port at the setting
    ``PUSHD_CONTROL_URL``. In Django's tests nothing is sent unless a ``pushd.testing.Daemon`` runs.

    Returns the publication's id. If a time is given, it returns a handle with ``cancel()`` in
    pushd's process, and in others the id of the schedule at the control port. Returns None if
    nothing is sent. Raises ValueError and TypeError like ``Request.publish``, Unavailable if pushd
    or its Redis cannot be reached, and Refused if pushd refuses for another reason.
    """
    if inprocess.is_running():
        return inprocess.publish(topic, data, event=event, delay=delay, every=every, count=count)
    url = getattr(settings, _SETTING, _DEFAULT)
    # Django's test runners replace the mailbox by a list of this name.
    if url is None or hasattr(mail, "outbox"):
        return None
    try:
        answer = client.publish(
            url,
            topic,
            data,
            event=event,
            delay=delay,
            every=every,
            count=count,
            timeout=_TIMEOUT,
        )
    except Unreachable as error:
        raise Unavailable(f"not published to {topic}: {error} (setting {_SETTING})") from error
    except Refused as error:
        if error.status == 503:
            raise Unavailable(f"not published to {topic}: {error}") from error
        if error.status == 400:
            raise ValueError(str(error)) from error
        raise
    return Id.parse(answer["id"]) if "id" in answer else answer["schedule"]
