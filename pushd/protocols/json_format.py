"""JSON as pushd sends it: publications and subscriptions, alike on every transport."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

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
