"""Responses that views make of values: JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pushd.protocols.http.response import Response


def json_response(
    value: object,
    status: int = 200,
    headers: Mapping[str, str | Sequence[str]] | None = None,
) -> Response:
    """Respond with a value as JSON: ``return json_response({"paid": True})``.

    The type is ``application/json``, so that no browser takes text in it for HTML. Raises TypeError
    for a value that JSON cannot hold, and ValueError for a number that is not finite (RFC 8259 §6).
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Half of a surrogate pair can only be written as an escape.
    body = text.encode(errors="backslashreplace")
    return Response(status, {"Content-Type": "application/json", **(headers or {})}, body)
