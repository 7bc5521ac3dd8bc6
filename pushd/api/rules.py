"""``/rules`` of the control port: which rule holds for a topic."""

from __future__ import annotations

from typing import Any

from pushd.api.publish import read_topic
from pushd.api.resource import AsyncResource, DaemonState, require_known
from pushd.errors import BadRequest
from pushd.protocols.http.response import Response, json_response


class RulesResource(AsyncResource):
    """``/rules?topic=NAME``: the rule of a topic, which need not exist."""

    async def answer(self, request: Any) -> Response:
        """Describe it."""
        require_known(request, "topic")
        given = request.args.get(b"topic")
        if not given:
            raise BadRequest("rules are those of a topic: ?topic=NAME", "topic")
        topic = read_topic(given[-1].decode(errors="replace"), "topic")
        return json_response(200, rule_json(self._state, topic))


def rule_json(state: DaemonState, topic: str) -> dict[str, Any]:
    """Return the JSON of a topic's rule, with the daemon's defaults where it has no value.

    ``match`` is null if no rule matches.
    """
    rule = state.rules.find(topic).with_defaults(state.default_rule())
    return {
        "topic": topic,
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
