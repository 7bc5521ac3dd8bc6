"""Access to topics: decides whether a client may subscribe or publish, by rules and tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from pushd.access.authorization import Action, Authorizer, read_token
from pushd.access.tokens import Identity
from pushd.errors import Denied
from pushd.topics.rules import Access, Rules

# What is denied, for the text of an error.
_DOING = {
    "subscribe": "subscribing to",
    "publish": "publishing to",
    "presence": "asking for the presence of",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """A client that asks for topics, as its request identifies it."""

    #: According to its token; None without a valid token.
    identity: Identity | None = None
    #: Why its token cannot be used, if that is so. Topics that need no token ignore it.
    problem: Denied | None = None


class TopicAccess:
    """Decides for every request for a topic, over all transports.

    :param authorizer: verifies tokens.
    :param rules: say what clients need to subscribe and to publish.
    """

    def __init__(self, authorizer: Authorizer, rules: Rules) -> None:
        self._authorizer = authorizer
        self._rules = rules

    def identify(self, request: Any) -> Caller:
        """Return who sent a request.

        :param request: of the public port: a ``ChannelRequest``, not that of a view.
        """
        if not self._authorizer.keys:
            return Caller()  # Tokens are ignored, however many there are.
        try:
            return Caller(self._authorizer.identify(read_token(request)))
        except Denied as denied:
            return Caller(problem=denied.with_traceback(None))

    def authorize(self, caller: Caller, action: Action, topic: str) -> Deferred[Identity | None]:
        """Return a Deferred of the identity with which a client may act; None for any client.

        The subscription of an identity ends when it ``expires``; see
        ``Authorizer.end_of_connection``. The Deferred fails with Denied (401 or 403). If it has
        not fired yet, it can be cancelled.
        """
        try:
            return succeed(self._check(caller, action, topic))
        except Denied as denied:
            return fail(denied)

    def renew(self, caller: Caller, token: str) -> Caller:
        """Return a caller with a fresh token in place of the one that it came with.

        Each topic must be authorized anew. Raises Denied.
        """
        fresh = self._authorizer.identify(token)
        if fresh is None or caller.identity is None:
            reason = "this connection was opened without a token; a token cannot be added"
            raise Denied(403, reason)
        if fresh.subject != caller.identity.subject:
            raise Denied(403, "the fresh token is for another subject")
        return replace(caller, identity=fresh)

    def may_publish(self, topic: str) -> bool:
        """Whether any client may publish to a topic at the public port."""
        return self._needed("publish", topic) != "nobody"

    def _needed(self, action: Action, topic: str) -> Access:
        """Return what clients need for an action."""
        rule = self._rules.find(topic)
        given = rule.publish if action == "publish" else rule.subscribe
        if given is not None:
            return given
        if self._authorizer.keys:
            return "token"
        return "nobody" if action == "publish" else "anyone"

    def _check(self, caller: Caller, action: Action, topic: str) -> Identity | None:
        """Check what needs no authorizer. Raises Denied."""
        needed = self._needed(action, topic)
        if needed == "anyone":
            return caller.identity
        if needed == "token":
            if caller.problem is not None:
                raise caller.problem.with_traceback(None)
            return self._authorizer.check_topic(caller.identity, action, topic)
        reason = f"{_DOING[action]} {topic} is not permitted"
        raise Denied(403, reason, where="topic", help="by a rule, see docs/topics.md")
