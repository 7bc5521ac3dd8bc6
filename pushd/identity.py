"""Who somebody is, and what they may do with which topics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

# As a topic, but that a segment may be *, and the last one **.
_SEGMENT = r"(?:[A-Za-z0-9._:-]+|\*)"
_PATTERN = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT}|\*\*)")
_MAX_PATTERN = 255


def check_pattern(text: str) -> str:
    """Give a topic pattern back if it is one; raises ValueError that says what one is."""
    if len(text) > _MAX_PATTERN or not _PATTERN.fullmatch(text):
        raise ValueError(
            "a topic pattern is a topic in which * stands for a segment, "
            "and ** at the end for all the rest"
        )
    return text


def matches(pattern: str, topic: str) -> bool:
    """Whether a pattern has a topic in it.

    ``*`` is one segment, whichever; ``**`` one or more: ``a/**`` has ``a/b`` and ``a/b/c`` in it,
    but not ``a``.
    """
    wanted, given = pattern.split("/"), topic.split("/")
    if wanted[-1] == "**":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        del given[len(wanted) :]
    return len(wanted) == len(given) and all(
        one in ("*", other) for one, other in zip(wanted, given, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a token says that was found to be good (RFC 7519)."""

    #: Who it is: the claim ``sub``; empty where the token names nobody.
    subject: str
    #: When the token runs out, in seconds since 1970: the claim ``exp``.
    expires: float
    #: Patterns of the topics that they may listen to, and publish to.
    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    #: All that the token claims, for views that know more of it.
    claims: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    def may_subscribe(self, topic: str) -> bool:
        """Whether they may listen to a topic."""
        return any(matches(pattern, topic) for pattern in self.subscribe)

    def may_publish(self, topic: str) -> bool:
        """Whether they may publish to a topic."""
        return any(matches(pattern, topic) for pattern in self.publish)
