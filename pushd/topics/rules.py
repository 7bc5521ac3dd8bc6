"""Rules for topics: how each is kept, and who may subscribe and publish to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal

from pushd.access.tokens import matches

#: What a client needs to do something with a topic: nothing, a token that permits it, or the
#: consent of the authorizer; ``nobody`` may do it at the public port.
Access = Literal["anyone", "token", "authorize", "nobody"]

# Topics whose rule is remembered, so that it is not looked up for each publication.
_MAX_KNOWN = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What holds for the topics that match a pattern. None stands for the daemon's default."""

    #: The pattern, as in tokens; None for the rule of topics that match none.
    match: str | None = None
    #: Publications kept, and for how many seconds; see ``Retention``.
    history_size: int | None = None
    history_ttl: int | None = None
    #: What subscribers and publishers at the public port need.
    subscribe: Access | None = None
    publish: Access | None = None
    #: Whether it is known who listens.
    presence: bool = False
    #: Whether slow subscribers, and those that come back, get the newest publication only.
    latest: bool = False
    #: Bytes of a publication, at most.
    max_message: int | None = None
    #: Whether the newest publication is kept until it is replaced, and new subscribers get it.
    retain: bool = False

    def with_defaults(self, defaults: Rule) -> Rule:
        """Return the rule with the values of another one in place of None."""
        missing = {
            one.name: getattr(defaults, one.name)
            for one in fields(self)
            if getattr(self, one.name) is None
        }
        return replace(self, **missing)

    def message_limit(self, limit: int) -> int:
        """Return how many bytes a publication may have, given the limit of the daemon."""
        return limit if self.max_message is None else min(limit, self.max_message)


#: The rule of topics that match no other.
DEFAULT = Rule()


def default_access(*, publish: bool, has_keys: bool, has_authorizer: bool) -> Access:
    """Return what clients need to publish, or else to subscribe, where no rule says it.

    :param has_keys: whether there are keys for tokens.
    :param has_authorizer: whether there is an authorizer, which is asked then.
    """
    if has_authorizer:
        return "authorize"
    if has_keys:
        return "token"
    return "nobody" if publish else "anyone"


class Rules:
    """The rules of a daemon; the first that matches a topic holds for it."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)
        self._known: dict[str, Rule] = {}
        #: Counts the calls of ``replace``.
        self.version = 0

    def __bool__(self) -> bool:
        return bool(self._rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def find(self, topic: str) -> Rule:
        """Return the rule that holds for a topic."""
        if not self._rules:
            return DEFAULT
        known = self._known.get(topic)
        if known is None:
            found = (one for one in self._rules if one.match and matches(one.match, topic))
            known = next(found, DEFAULT)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[topic] = known
        return known

    def replace(self, other: Rules) -> None:
        """Use the rules of another object from now on."""
        self._rules = other._rules
        self._known.clear()
        self.version += 1
