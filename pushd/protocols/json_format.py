"""JSON as pushd sends it: publications and subscriptions, alike on every transport."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from pushd.topics.presence import PresenceChange, PresenceList
from pushd.topics.publication import Id, Publication


def to_json(value: object) -> str:
    """Return JSON without blanks and without escapes for other than ASCII characters."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def is_encodable(text: str) -> bool:
    """Return whether UTF-8 can encode a text: JSON and Python can hold half a surrogate pair."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def subscription_json(topic: str, id: Id, recovered: bool) -> dict[str, Any]:
    """Return the JSON of a start: the publications that are sent follow this id."""
    return {"subscribed": topic, "id": str(id), "recovered": recovered}


def presence_json(listed: PresenceList) -> dict[str, Any]:
    """Return the JSON of who is present: all subjects, or counts only."""
    subjects = listed.subjects
    return {
        "subjects": None
        if subjects is None
        else [
            {
                "subject": one.subject,
                "connection": one.connection,
                "connections": one.connections,
                "info": one.info,
            }
            for one in subjects
        ],
        "count": listed.count,
        "connections": listed.connections,
    }


def presence_event_json(event: PresenceList | PresenceChange) -> dict[str, Any]:
    """Return the JSON that tells a subscriber who is present, has joined or has left.

    Its first key says which of them: ``presence``, ``joined`` or ``left``.
    """
    if isinstance(event, PresenceList):
        return {"presence": event.topic, **presence_json(event)}
    present = event.present
    return {
        "joined" if event.joined else "left": event.topic,
        "subject": present.subject,
        "connection": present.connection,
        "info": present.info,
    }


def publication_json(
    publication: Publication, *, topic: bool = False, format_json: bool = False
) -> str:
    """Return the JSON text of a publication: text as ``data``, bytes as ``base64``.

    Beside its id it has the name of its ``event``, and how many publications it replaces
    (``conflated``), where that says something.

    :param topic: whether it names the topic, for a connection that has several.
    :param format_json: whether ``data`` is a JSON value, not its text, if it was published as one.
    """
    members: dict[str, Any] = {"topic": publication.topic} if topic else {}
    members["id"] = str(publication.id)
    if publication.event is not None:
        members["event"] = publication.event
    if publication.conflated:
        members["conflated"] = publication.conflated
    data = publication.data
    if isinstance(data, bytes):
        members["base64"] = b64encode(data).decode()
    elif format_json and publication.is_json:
        # Embedded as it is, as to parse it would take longer. Its line ends are only between
        # values: in strings they are escaped.
        value = data.replace("\r", " ").replace("\n", " ")
        return f'{to_json(members)[:-1]},"data":{value}}}'
    else:
        members["data"] = data
    return to_json(members)
