"""The publishers of a soak test: publications one by one and in batches, and timed pushes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

from tests.soak.ledger import Ledger, split_id
from tests.soak.payload import LARGE, make_delayed, make_payload, make_repeated
from tests.soak.wire import AnswerReader, post

# Seconds until what was refused is sent again, and in which an answer comes.
_AGAIN, _ANSWER = 0.2, 1.0

# Every so many publications there is a batch of so many, a push after a delay, and a series.
_BATCH_EVERY, _BATCH = 10, 5
_DELAY_EVERY, _DELAY = 7, 4
_SERIES_EVERY, _SERIES, _INTERVAL = 15, 5, 0.5


class Control:
    """A connection to the control port of a node, for one request after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._answers = AnswerReader()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request, and return status and body. Raises ``OSError``."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            self._answers = AnswerReader()
        reader, writer = self._streams
        writer.write(request)
        while True:
            data = await reader.read(1 << 16)
            if not data:
                self.close()
                raise ConnectionError("the control port has closed the connection")
            for answer in self._answers.feed(data):
                return answer

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass(frozen=True)
class _Due:
    """A timed push: what must have been published how many times, and when it was made and ends."""

    topic: str
    data: str
    times: int
    made: float
    last: float


class Publishers:
    """Publishes to the topics of all clients, at all nodes in turns.

    :param controls: the control ports of the nodes.
    :param large: the topic of large publications.
    """

    def __init__(
        self, ledger: Ledger, controls: list[int], topics: list[str], large: str, random: Random
    ) -> None:
        self._ledger = ledger
        self._ports = controls
        self._topics, self._large = topics, large
        self._random = random
        self._numbers = count(1)
        self._due: list[_Due] = []
        #: What was published, by kind, and how often a request was repeated.
        self.done: Counter[str] = Counter()

    async def run(self, rate: float, large_rate: float) -> None:
        """Publish this many times a second, until it is cancelled."""
        each = len(self._ports) / rate
        works = [self._repeat(each, self._publish_some, port) for port in self._ports]
        works.append(self._repeat(1 / large_rate, self._publish_large, self._ports[0]))
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)

    async def finish(self) -> None:
        """Publish once more to each topic, so that all can be seen to have everything."""
        control = Control(self._ports[0])
        for topic in [*self._topics, self._large]:
            await self._publish(control, topic, self._make())
        control.close()

    @property
    def waits(self) -> float:
        """Seconds until the last timed push is due."""
        return max([0.0, *(due.last - self._ledger.now() for due in self._due)])

    def check(self) -> None:
        """Add a fault for each timed push that should have been published by now."""
        ledger, now = self._ledger, self._ledger.now()
        patience = ledger.limits.patience
        waiting = []
        for due in self._due:
            times = ledger.times(due.topic, due.data)
            if times > due.times:
                ledger.faults.add(f"a timed push to {due.topic} came {times} times: {due}")
            elif times == due.times:
                self.done["timed"] += times
            elif due.last + patience > now:
                waiting.append(due)
            elif ledger.wiped < due.made - _ANSWER:
                ledger.faults.add(f"a timed push to {due.topic} came {times} times: {due}")
            else:
                self.done["lost with the data of Redis"] += due.times - times
        self._due = waiting

    async def _repeat(
        self, interval: float, work: Callable[[Control], Awaitable[None]], port: int
    ) -> None:
        control, loop = Control(port), asyncio.get_running_loop()
        try:
            next_time = loop.time() + self._random.random() * interval
            while True:
                await asyncio.sleep(max(0.0, next_time - loop.time()))
                await work(control)
                next_time = max(next_time + interval, loop.time())
        finally:
            control.close()

    async def _publish_some(self, control: Control) -> None:
        number = next(self._numbers)
        topic = self._random.choice(self._topics)
        if number % _BATCH_EVERY == 0:
            await self._publish_batch(control)
        elif number % _DELAY_EVERY == 0:
            data, delay = make_delayed(number), self._random.uniform(0, _DELAY)
            await self._schedule(control, topic, data, f"delay={delay:.3f}", 1, delay)
        elif number % _SERIES_EVERY == 0:
            query = f"every={_INTERVAL}&count={_SERIES}"
            seconds = _SERIES * _INTERVAL
            await self._schedule(control, topic, make_repeated(number), query, _SERIES, seconds)
        else:
            await self._publish(control, topic, self._make())

    async def _publish_large(self, control: Control) -> None:
        await self._publish(control, self._large, self._make(LARGE))

    def _make(self, size: int = 0) -> str:
        number, now = next(self._numbers), self._ledger.now()
        return make_payload(number, now, size) if size else make_payload(number, now)

    async def _publish(self, control: Control, topic: str, data: str) -> None:
        request = post(f"/topics/{topic}", data, key=data.split(" ")[0])
        answer = await self._insist(control, request, 200)
        self._note(topic, answer["id"], data)

    async def _publish_batch(self, control: Control) -> None:
        batch = [
            {"topic": topic, "data": self._make(), "idempotency_key": f"batch-{number}"}
            for topic, number in zip(
                self._random.choices(self._topics, k=_BATCH), self._numbers, strict=False
            )
        ]
        request = post("/publish", json.dumps({"publications": batch}))
        answer = await self._insist(control, request, 200)
        for one, published in zip(batch, answer["published"], strict=True):
            self._note(one["topic"], published["id"], one["data"])

    async def _schedule(
        self, control: Control, topic: str, data: str, query: str, times: int, seconds: float
    ) -> None:
        await self._insist(control, post(f"/topics/{topic}?{query}", data), 202)
        now = self._ledger.now()
        self._due.append(_Due(topic, data, times, now, now + seconds))
        self.done["scheduled"] += times

    def _note(self, topic: str, id: str, data: str) -> None:
        self.done["published"] += 1
        self._ledger.note(topic, *split_id(id), data, "a publisher")

    async def _insist(self, control: Control, request: bytes, wanted: int) -> Any:
        """Send a request until it is answered as wanted; the daemon may refuse with 503 meanwhile.

        Without Redis nothing can be published.
        """
        ledger = self._ledger
        while True:
            status, body = 0, b""
            with suppress(OSError):
                status, body = await control.ask(request)
            if status == wanted:
                return json.loads(body)
            self.done["repeated"] += 1
            if status != 503 or ledger.now() - ledger.disturbed > ledger.limits.patience:
                ledger.faults.add(f"a publication was answered {status}: {body[:200]!r}")
            await asyncio.sleep(_AGAIN)
