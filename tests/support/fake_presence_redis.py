"""The scripts of presence, as a fake Redis runs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from pushd.topics.redis.presence import BEAT_SCRIPT, READ, SHARE
from pushd.topics.redis.scripts import Script

#: The names of the scripts.
PRESENCE_SCRIPTS = {BEAT_SCRIPT: "beat", SHARE: "share", READ: "read presence"}


class FakePresenceData:
    """What Redis knows of presence.

    :param publish: sends a message on a channel.
    """

    def __init__(self, clock: Any, publish: Callable[[bytes, bytes], object]) -> None:
        self._clock = clock
        self._publish = publish
        #: Until when each node lives.
        self.nodes: dict[str, float] = {}
        #: The hashes of all topics.
        self.hashes: dict[str, dict[str, str]] = defaultdict(dict)

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script."""
        return {BEAT_SCRIPT: self._beat, SHARE: self._share, READ: self._read}[script](keys, args)

    def _living(self) -> list[str]:
        now = self._clock.seconds()
        return [node for node, end in self.nodes.items() if end > now]

    def _beat(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        node, life = args
        known = node in self._living()
        self.nodes[node] = self._clock.seconds() + life / 1000
        return [int(known), [name.encode() for name in self._living()]]

    def _share(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        node, rest = args[0], list(args[2:])
        for present, part in zip(keys[::2], keys[1::2], strict=True):
            channel, anew, summary, message, count = rest[:5]
            changes, rest = rest[5 : 5 + 2 * count], rest[5 + 2 * count :]
            if anew:
                self.hashes.pop(part, None)
            for key, value in zip(changes[::2], changes[1::2], strict=True):
                self.hashes[part][key] = value
                if not value:
                    del self.hashes[part][key]
            self.hashes[present][node] = summary
            if not summary:
                del self.hashes[present][node]
            self._publish(channel, message.encode())
        assert not rest

    def _read(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        node, limit, parts = args
        summaries = self.hashes[keys[1]]
        living, found, subjects = self._living(), [], 0
        for name, summary in list(summaries.items()):
            if name not in living:
                del summaries[name]
                self.hashes.pop(parts + name, None)
            elif name != node:
                subjects += int(summary.split()[1])
                fields = [text for item in self.hashes[parts + name].items() for text in item]
                found.append([name.encode(), summary.encode(), [one.encode() for one in fields]])
        if subjects > limit:
            return [0, [[name, summary, []] for name, summary, _ in found]]
        return [1, found]
