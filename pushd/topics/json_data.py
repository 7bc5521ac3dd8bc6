"""JSON as the data of publications."""

from __future__ import annotations

import json
from typing import NoReturn


def encode_json(value: object) -> str:
    """Return a value as JSON text.

    Raises ValueError or TypeError if that is impossible: JSON has no infinite numbers, for example.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def check_json(text: str) -> str:
    """Return a text if it is JSON (RFC 8259). Raises ValueError with the reason if not."""
    try:
        _CHECKER.decode(text)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    return text


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


# Values are dropped as soon as they have been read: kept, they would take up to thirty times the
# size of the text. So a number may have as many digits as it likes.
_CHECKER = json.JSONDecoder(
    parse_int=bool, parse_float=bool, parse_constant=_refuse, object_pairs_hook=bool
)
