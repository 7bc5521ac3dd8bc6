"""What a subscription yields, read from the JSON of ``/topics``."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from typing import Any

from pushd.errors import Refused


@dataclass(frozen=True, slots=True)
class Began:
    """The subscription to a topic has started, or was resumed: publications after ``id`` follow.

    ``recovered`` is True if no publication since the id that it resumed from was missed.
    """

    topic: str
    id: str
    recovered: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection of a subscription broke; it is reconnected after ``seconds``."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Message:
    """A publication that was received."""

    topic: str
    id: str
    #: Text or bytes; with ``json=True`` the value of a publication that is JSON.
    data: Any
    #: The name of its event; None for the default.
    event: str | None = None
    #: For topics of which only the latest value counts: how many publications were left out.
    conflated: int = 0


def read_message(value: Any) -> Began | Message | None:
    """Read one JSON value; None if it is none of these, such as a heartbeat.

    Raises Refused if it ends the subscription to a topic, and LookupError, TypeError or ValueError
    if pushd sends no such value.
    """
    if not isinstance(value, dict):
        return None
    if "subscribed" in value:
        return Began(value["subscribed"], value["id"], value["recovered"])
    if "error" in value:
        where = value.get("where")
        status = value.get("code", 403 if where == "token" else 400)
        raise Refused(int(status), _explain(value, "error"), where, None)
    if "unsubscribed" in value:
        raise Refused(int(value.get("code", 403)), _explain(value, "reason"), "token", None)
    if "id" not in value or "topic" not in value:
        return None
    encoded = value.get("base64")
    data = value["data"] if encoded is None else b64decode(encoded)
    return Message(value["topic"], value["id"], data, value.get("event"), value.get("conflated", 0))


def _explain(value: dict[str, Any], member: str) -> str:
    """Return the reason in a message, with the topic that it is about."""
    reason = str(value.get(member) or "the subscription was ended")
    topic = value.get("topic", value.get("unsubscribed"))
    return reason if topic is None else f"{topic}: {reason}"
