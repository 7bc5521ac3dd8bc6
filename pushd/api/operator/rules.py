"""``/rules`` of the control port: the rules, and which of them holds for a topic."""

from __future__ import annotations

from typing import Any

from pushd.api.publish import read_topic
from pushd.api.resource import AsyncResource, DaemonState, read_argument, require_known
from pushd.protocols.http.response import Response, json_response
from pushd.topics.rules import DEFAULT, Rule


class RulesResource(AsyncResource):
    """``/rules``: all rules; ``/rules?topic=NAME``: that of a topic, which need not exist."""

    async def answer(self, request: Any) -> Response:
        """Describe them, in the order in which they are looked through; or the one."""
        require_known(request, "topic")
        given = read_argument(request, "topic")
        if given is None:
            rules = [rule_json(self._state, one) for one in (*self._state.rules, DEFAULT)]
            return json_response(200, {"rules": rules})
        topic = read_topic(given, "topic")
        rule = rule_json(self._state, self._state.rules.find(topic))
        return json_response(200, {"topic": topic, **rule})


def rule_json(state: DaemonState, rule: Rule) -> dict[str, Any]:
    """Return the JSON of a rule, with the daemon's defaults where it has no value.

    ``match`` is null for the rule of topics that match none.
    """
    rule = rule.with_defaults(state.default_rule())
    return {
        "match": rule.match,
        "history-size": rule.history_size,
        "history-ttl": rule.history_ttl,
        "subscribe": rule.subscribe,
        "publish": rule.publish,
        "presence": rule.presence,
        "latest": rule.latest,
        "max-message": rule.message_limit(state.limits.max_message),
        "retain": rule.retain,
    }
