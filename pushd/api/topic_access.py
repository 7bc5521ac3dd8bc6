"""Access to topics: rules, tokens and the authorizer decide who may subscribe and publish."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from pushd.access.authorization import Action, Authorizer, read_token
from pushd.access.tokens import Identity
from pushd.errors import Denied
from pushd.topics.rules import Access, Rules, default_access
from pushd.views.authorizer import TopicAuthorizer
from pushd.views.request import Request

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
    #: Its request, for the authorizer; None without one.
    request: Request | None = None


class TopicAccess:
    """Decides for every request for a topic, over all transports.

    :param authorizer: verifies tokens.
    :param rules: say what clients need to subscribe and to publish.
    :param topic_authorizer: decides about topics whose rule says so, and those without a rule.
    """

    def __init__(
        self,
        authorizer: Authorizer,
        rules: Rules,
        topic_authorizer: TopicAuthorizer | None = None,
    ) -> None:
        self._authorizer = authorizer
        self._rules = rules
        self._topic_authorizer = topic_authorizer

    @property
    def asks_authorizer(self) -> bool:
        """Whether there is an authorizer, which may decide otherwise at any time."""
        return self._topic_authorizer is not None

    def identify(self, request: Any) -> Caller:
        """Return who sent a request to the public port.

        :param request: the ``ChannelRequest``, not that of a view.
        """
        caller = self._read_token(request)
        if self._topic_authorizer is None:
            return caller
        asked = self._topic_authorizer.make_request(request, caller.identity)
        return replace(caller, request=asked)

    def _read_token(self, request: Any) -> Caller:
        if not self._authorizer.keys:
            return Caller()  # Tokens are ignored, however many there are.
        try:
            return Caller(self._authorizer.identify(read_token(request)))
        except Denied as denied:
            return Caller(problem=denied.with_traceback(None))

    def authorize(self, caller: Caller, action: Action, topic: str) -> Deferred[Identity | None]:
        """Return a Deferred of the identity with which a client may act; None for any client.

        The subscription of an identity ends when it ``expires``; see
        ``Authorizer.end_of_connection``. The Deferred fails with Denied (401 or 403), or with
        BadRequest if the authorizer fails (500) or does not answer (503). It can be cancelled.
        """
        needed, authorizer = self.needs(action, topic), self._topic_authorizer
        if needed == "authorize" and authorizer is not None:
            return self._ask(authorizer, caller, action, topic)
        try:
            return succeed(self._check(needed, caller, action, topic))
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
        return with_identity(caller, fresh)

    def may_publish(self, topic: str) -> bool:
        """Whether any client may publish to a topic at the public port."""
        return self.needs("publish", topic) != "nobody"

    def needs(self, action: Action, topic: str) -> Access:
        """Return what clients need for an action."""
        rule = self._rules.find(topic)
        given = rule.publish if action == "publish" else rule.subscribe
        if given is not None:
            return given
        return default_access(
            publish=action == "publish",
            has_keys=bool(self._authorizer.keys),
            has_authorizer=self._topic_authorizer is not None,
        )

    def _ask(
        self, authorizer: TopicAuthorizer, caller: Caller, action: Action, topic: str
    ) -> Deferred[Identity | None]:
        """Ask the authorizer, unless the client has a token that is not valid."""
        if caller.problem is not None:
            return fail(caller.problem)
        assert caller.request is not None  # There is an authorizer.
        permitted = authorizer.ask(caller.request, action, topic)
        return permitted.addCallback(lambda permission: permission.identity(caller.identity))

    def _check(self, needed: Access, caller: Caller, action: Action, topic: str) -> Identity | None:
        """Return the identity of a client that may act without the authorizer. Raises Denied."""
        if needed == "anyone":
            return caller.identity
        if needed == "token":
            if caller.problem is not None:
                raise caller.problem.with_traceback(None)
            return self._authorizer.check_topic(caller.identity, action, topic)
        reason = f"{_DOING[action]} {topic} is not permitted"
        raise Denied(403, reason, where="topic", help="by a rule, see docs/topics.md")


def with_identity(caller: Caller, identity: Identity) -> Caller:
    """Return a caller whose token has been verified apart from its request."""
    request = caller.request and replace(caller.request, identity=identity)
    return Caller(identity, request=request)
