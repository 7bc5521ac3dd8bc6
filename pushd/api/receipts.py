"""What publishers were told, to be told again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from twisted.internet.interfaces import IReactorTime

from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.broker import KEY_TTL

# How many answers are kept at most.
_MAX_RECEIPTS = 100_000


class Receipts:
    """The answers to publications with a key, for as long as the key is remembered.

    The broker knows which publication a key stands for; but how many listened was counted then,
    and who asks again is to hear that number, not today's.

    :param clock: where time comes from.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._answers: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self._keys: TimeoutQueue[tuple[str, str]] = TimeoutQueue(
            clock, length=KEY_TTL, expired=self._answers.pop
        )

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, topic: str, key: str) -> dict[str, Any] | None:
        """What the first one to use a key for a topic was told; None if nobody was."""
        return self._answers.get((topic, key))

    def keep(self, topic: str, key: str, answer: dict[str, Any]) -> dict[str, Any]:
        """Keep an answer, and give it; or give the one that is kept already."""
        if (topic, key) in self._answers:
            return self._answers[topic, key]
        if len(self._answers) >= _MAX_RECEIPTS:
            self._keys.stop(self._answers.popitem(last=False)[0])
        self._answers[topic, key] = answer
        self._keys.start((topic, key))
        return answer

    def stop(self) -> None:
        """Forget everything, timers included."""
        for key in self._answers:
            self._keys.stop(key)
        self._answers.clear()
