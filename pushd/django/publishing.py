"""Publishing from any process of a Django site: in pushd's own, or by a request to it."""

from __future__ import annotations

from copy import deepcopy
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core import mail
from django.db import transaction

from pushd.client import anywhere
from pushd.topics.json_data import encode_json
from pushd.topics.publication import check_event, check_topic

# The setting with the URL of the control port. Without it, the environment variable of the same
# name counts; with None, nothing is sent.
_SETTING = "PUSHD_CONTROL_URL"


def publish(
    topic: str,
    data: str | bytes | dict[str, Any] | list[Any],
    *,
    event: str | None = None,
    delay: float | None = None,
    at: datetime | None = None,
    every: float | None = None,
    count: int | None = None,
    on_commit: bool = False,
    using: str | None = None,
) -> Any:
    """Publish to a topic, from any process of the site; see ``pushd.publish``.

    The control port is at the setting ``PUSHD_CONTROL_URL``, or at the environment variable of that
    name if there is no such setting. In Django's tests nothing is sent unless a
    ``pushd.testing.Daemon`` runs.

    :param on_commit: publish when the current transaction is committed, and not at all if it is
        rolled back; without a transaction, at once. Django logs a failure, which does not reach the
        caller, as a ``robust`` function of ``transaction.on_commit``.
    :param using: the database of that transaction; None for the default one.

    Returns the publication's id. If a time is given, it returns a handle with ``cancel()`` in
    pushd's process, and in others the id of the schedule at the control port. Returns None if
    nothing is sent, and with ``on_commit``. Raises ValueError and TypeError like
    ``Request.publish``, Unavailable if pushd or its Redis cannot be reached, and Refused if pushd
    refuses for another reason.
    """
    if not on_commit:
        return _publish(topic, data, event=event, delay=delay, at=at, every=every, count=count)
    check_topic(topic)
    if event is not None:
        check_event(event)
    if isinstance(data, dict | list):
        encode_json(data)  # Raises what the call in the transaction would raise later.
        data = deepcopy(data)
    elif not isinstance(data, str | bytes):
        raise TypeError(f"publication must be str, bytes, dict or list; got {type(data).__name__}")

    def send() -> None:
        _publish(topic, data, event=event, delay=delay, at=at, every=every, count=count)

    transaction.on_commit(send, using=using, robust=True)
    return None


def last_id(topic: str) -> str | None:
    """Return the id with which a page that is rendered now subscribes to a topic.

    See ``pushd.last_id``. The control port is that of ``publish``; returns None where ``publish``
    sends nothing.
    """
    daemon = anywhere.find_daemon()
    if daemon is not None:
        id: str = daemon.last_id(topic)
        return id
    url = find_control_url()
    return None if url is None else anywhere.last_id_at(url, topic)


def _publish(topic: str, data: str | bytes | dict[str, Any] | list[Any], **options: Any) -> Any:
    daemon = anywhere.find_daemon()
    if daemon is not None:
        return daemon.publish(topic, data, **options)
    url = find_control_url()
    return None if url is None else anywhere.publish_at(url, topic, data, **options)


def find_control_url() -> str | None:
    """Return the URL of the control port, for this process; None if nothing is to be sent."""
    # Django's test runners replace the mailbox by a list of this name.
    if hasattr(mail, "outbox"):
        return None
    url: str | None = getattr(settings, _SETTING, anywhere.control_url())
    return url
