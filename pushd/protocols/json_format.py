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


def publication_json(publication: Publication) -> dict[str, Any]:
    """Return the JSON of a publication: text as ``data``, bytes as ``base64``."""
    if isinstance(publication.data, str):
        return {"id": str(publication.id), "data": publication.data}
    return {"id": str(publication.id), "base64": b64encode(publication.data).decode()}


def presence_json(listed: PresenceList) -> dict[str, Any]:
    """Return the JSON of who is present: all subjects, or counts only."""
    subjects = listed.subjects
    return {
        "subjects": None
        if subjects is None
        else [
            {"subject": one.subject, "connections": one.connections, "info": one.info}
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
