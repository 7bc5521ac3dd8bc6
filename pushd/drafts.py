"""What is to be published, as it stands in a request; Wrong says where it can't be."""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from typing import Any

from pushd.async_resource import Wrong
from pushd.topics.broker import Draft
from pushd.topics.publication import check_topic

# What an Idempotency-Key may be: what fits into a header, and is not made to fill memory.
_KEY = re.compile(r"[\x21-\x7e]{1,200}")

# How many publications one request may have.
_MAX_BATCH = 1000


def read_topic(name: object, where: str) -> str:
    """The name of a topic."""
    if not isinstance(name, str):
        raise Wrong("a topic is text", where)
    try:
        return check_topic(name)
    except ValueError as error:
        raise Wrong(error, where) from None


def read_key(given: object, where: str) -> str | None:
    """An idempotency key, or None where there is none."""
    if given is None:
        return None
    if not isinstance(given, str) or not _KEY.fullmatch(given):
        raise Wrong("a key is 1 to 200 printable ASCII characters", where)
    return given


def read_data(request: Any) -> str | bytes:
    """The data of a publication: text, unless the request says that it is bytes."""
    data: bytes = request.content.read()
    kind = (read_header(request, b"content-type") or "").partition(";")[0].strip().lower()
    if kind == "application/octet-stream":
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        error = "the body is not UTF-8; bytes are sent as application/octet-stream"
        raise Wrong(error, "body") from None


def read_number(request: Any, name: str) -> float | None:
    """A number of the query, or None where it is not there."""
    values = request.args.get(name.encode())
    if not values:
        return None
    text = values[-1].decode("latin-1")
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text):
        raise Wrong(f"{name} is a number from 0 on, of nine digits at most", name)
    return float(text)


def read_header(request: Any, name: bytes) -> str | None:
    """A header as text, or None where it is not there."""
    value = request.getHeader(name)
    return None if value is None else str(value, "latin-1")


def read_drafts(body: bytes, max_message: int) -> list[Draft]:
    """What a batch has in it, all of it found to be in order."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"the body is no JSON: {error}", "body") from None
    publications = asked.get("publications") if isinstance(asked, dict) else None
    if not isinstance(publications, list):
        raise Wrong('the body is {"publications": […]}', "body")
    if len(publications) > _MAX_BATCH:
        raise Wrong(f"a request has {_MAX_BATCH} publications at most", "publications", 413)
    drafts = []
    for place, one in enumerate(publications):
        drafts.append(draft := _draft(one, f"publications[{place}]"))
        size = len(draft.data.encode() if isinstance(draft.data, str) else draft.data)
        if size > max_message:
            line = f"a publication of {size} bytes: --max-message is {max_message}"
            raise Wrong(line, f"publications[{place}]", 413)
    return drafts


def _draft(one: object, where: str) -> Draft:
    if not isinstance(one, dict):
        raise Wrong("a publication is an object", where)
    unknown = one.keys() - {"topic", "data", "base64", "idempotency_key"}
    if unknown:
        # Escaped: a key may be what no answer could hold.
        raise Wrong("unknown key", f"{where}.{ascii(min(unknown))[1:-1][:100]}")
    topic = read_topic(one.get("topic"), f"{where}.topic")
    if ("data" in one) == ("base64" in one):
        raise Wrong("a publication has either data or base64", where)
    key = read_key(one.get("idempotency_key"), f"{where}.idempotency_key")
    if "data" in one:
        if not isinstance(one["data"], str) or not _is_unicode(one["data"]):
            raise Wrong("data is text", f"{where}.data")
        return Draft(topic, one["data"], key)
    try:
        return Draft(topic, b64decode(one["base64"], validate=True), key)
    except (TypeError, ValueError, binascii.Error):
        raise Wrong("base64 is bytes in base64", f"{where}.base64") from None


def _is_unicode(text: str) -> bool:
    """Whether text can be sent: JSON can spell half a surrogate pair, UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
