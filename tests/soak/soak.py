"""The soak test itself: what happens when, and the verdict."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from bench.descriptors import raise_descriptors
from tests.soak.clients import (
    MIX,
    Client,
    Habits,
    ManyWebSocketClient,
    StreamClient,
    Tally,
    V1Client,
    World,
)
from tests.soak.ledger import Faults, Ledger, Limits
from tests.soak.nodes import Node, Redis, report_errors, start_nodes
from tests.soak.publishers import Publishers
from tests.soak.samples import (
    Resource,
    Samples,
    find_remains,
    format_table,
    format_trends,
    measure_node,
    measure_redis,
)

Say = Callable[[str], None]

# Descriptors for all but clients.
_RESERVED = 200

# How often the end of something is looked for, in seconds.
_LOOK = 0.2

# How many clients of large publications there are: one of so many, and at least a few.
_LARGE_SHARE, _LARGE_LEAST = 100, 2

# Topics of one witness, and the seconds until it has subscribed to them.
_WITNESSED, _BEGIN = 100, 2.0

# Clients of one topic.
_PER_TOPIC = 40

# How long Redis is away, in seconds.
_OUTAGE = 5.0


@dataclass(frozen=True)
class Plan:
    """How large the test is.

    :param seconds: from the first client to the last.
    :param rate: publications a second.
    :param churn: connections that end or stall, a second.
    :param views: the views of the daemons.
    """

    seconds: float = 3600.0
    clients: int = 2000
    rate: float = 20.0
    churn: float = 15.0
    seed: int = 1
    views: str = "tests.soak.echo_views:views"

    @property
    def warm_up(self) -> float:
        """Seconds that are not judged."""
        return self.seconds / 4

    @property
    def patience(self) -> float:
        """Seconds until anything is late."""
        return min(30.0, max(6.0, self.seconds / 20))

    @property
    def history_ttl(self) -> float:
        """Seconds that the daemons keep publications."""
        return min(60.0, max(5.0, self.seconds / 30))

    @property
    def sample(self) -> float:
        """Seconds from one sample to the next."""
        return min(10.0, self.seconds / 60)

    @property
    def disturb(self) -> float:
        """Seconds from one disturbance to the next."""
        return min(90.0, self.seconds / 10)


class Soak:
    """One run. Use ``run``."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self._plan = plan
        self._say = say
        self._faults = Faults(say)
        self._random = Random(plan.seed)
        limits = Limits(100, plan.history_ttl, plan.patience)
        self._ledger = Ledger(limits, time.monotonic, self._faults)
        self._tally = Tally()
        self._samples = Samples()
        self._disturbances: Counter[str] = Counter()
        topics = max(6, plan.clients // _PER_TOPIC)
        self._topics = [f"soak/{number}" for number in range(topics)]
        self._large = "soak/large"
        self._redis = Redis()
        self._nodes: list[Node] = []

    async def run(self) -> bool:
        """Run it, and return whether all went well."""
        needed = self._plan.clients + _RESERVED
        if (limit := raise_descriptors(needed)) < needed:
            raise OSError(f"{needed} open files are needed, and the limit is {limit} (ulimit -Hn)")
        asyncio.get_running_loop().set_exception_handler(self._failed)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pushd-soak-")))
            stack.enter_context(self._redis.running())
            args = ["--views", self._plan.views, "--history-ttl", f"{self._plan.history_ttl:g}"]
            self._nodes = start_nodes(stack, self._redis, folder, needed, args)
            clients, publishers = await self._soak()
            report_errors(self._nodes, self._faults)
        return self._report(clients, publishers)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        """Add a fault for an exception in a client."""
        error = context.get("exception")
        self._faults.add(f"{context['message']}: {context.get('protocol')}: {error!r}")

    async def _soak(self) -> tuple[list[Client], Publishers]:
        plan = self._plan
        for node in self._nodes:
            if not await node.reload(plan.patience):
                self._faults.add(f"{node.name} did not reload")
        world = World(
            ports=[node.port for node in self._nodes],
            ledger=self._ledger,
            habits=Habits(
                life=plan.clients / plan.churn,
                away=min(3.0, plan.history_ttl / 8),
                stall=min(25.0, plan.seconds / 10),
                patience=plan.patience,
            ),
            tally=self._tally,
            random=self._random,
        )
        publishers = Publishers(
            self._ledger,
            [node.control_port for node in self._nodes],
            self._topics,
            self._large,
            self._random,
        )
        # What only the first use of something takes is no leak.
        await self._rehearse(world)
        before = await self._measure()
        clients, began = self._make_clients(world), time.monotonic()
        # A timed push that nobody has got cannot be told from one that was lost.
        witnesses = self._make_witnesses(world)
        for witness in witnesses:
            witness.start()
        await asyncio.sleep(_BEGIN)
        for client in clients:
            client.start(self._random.random() * plan.warm_up / 4)
        clients += witnesses
        publishing = asyncio.create_task(
            publishers.run(plan.rate, large_rate=min(2, plan.rate / 10))
        )
        disturbing = asyncio.create_task(self._disturb(began + plan.seconds))
        try:
            await self._watch(clients, publishers, began)
            await disturbing
        finally:
            for task in (publishing, disturbing):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._complete(clients, publishers)
        await self._leave(clients, before)
        return clients, publishers

    def _make_clients(self, world: World) -> list[Client]:
        clients: list[Client] = []
        whole = sum(MIX.values())
        for kind, share in MIX.items():
            for _ in range(max(1, round(self._plan.clients * share / whole))):
                number = len(clients)
                topics = self._random.sample(self._topics, 5)
                clients.append(kind(world, number, topics, stays=number % 5 == 0))
        for number in range(max(_LARGE_LEAST, self._plan.clients // _LARGE_SHARE)):
            large = (V1Client, StreamClient)[number % 2]
            clients.append(large(world, len(clients), [self._large], stays=False))
        return clients

    def _make_witnesses(self, world: World) -> list[Client]:
        """Make clients that subscribe to all topics, and stay."""
        return [
            ManyWebSocketClient(world, start, self._topics[start : start + _WITNESSED], stays=True)
            for start in range(0, len(self._topics), _WITNESSED)
        ]

    async def _rehearse(self, world: World) -> None:
        """Let some clients of each kind come and go."""
        habits = Habits(life=1e6, away=1e6, stall=0, patience=self._plan.patience)
        apart = World(world.ports, world.ledger, habits, Tally(), self._random)
        clients = [kind(apart, 0, self._topics[:5], stays=True) for kind in list(MIX) * 8]
        for client in clients:
            client.start()
        await asyncio.sleep(1)
        for client in clients:
            client.stop()
        await self._wait_for(lambda: all(client.gone for client in clients))
        await self._wait_until_idle()

    async def _watch(self, clients: Sequence[Client], publishers: Publishers, began: float) -> None:
        """Sample, and look for what is late, until the time is over."""
        plan = self._plan
        end, begin_to_judge = began + plan.seconds, began + plan.warm_up
        while (now := time.monotonic()) < end:
            await asyncio.sleep(min(plan.sample, end - now))
            for client in clients:
                client.check()
            publishers.check()
            if time.monotonic() >= begin_to_judge:
                for owner, values in (await self._measure()).items():
                    self._samples.add(owner, time.monotonic(), values)

    async def _measure(self) -> dict[str, dict[Resource, float]]:
        measured = {}
        for node in self._nodes:
            measured[node.name] = measure_node(node.daemon.pid, await node.read_metrics())
        if not self._redis.is_away:
            keys, memory = self._redis.count_keys(), self._redis.memory()
            measured["Redis"] = measure_redis(keys, memory)
        return measured

    async def _disturb(self, end: float) -> None:
        """Reload the nodes and let Redis fail, one after the other."""
        kinds = (self._reload, self._kill_redis, self._reload_mistake, self._hang_redis)
        # Its data is lost before anything is judged, and once more at the end.
        await asyncio.sleep(self._plan.disturb)
        await self._wipe_redis()
        for number in count():
            await asyncio.sleep(self._plan.disturb)
            if time.monotonic() > end - self._plan.disturb:
                return
            await kinds[number % len(kinds)]()

    async def _reload(self) -> None:
        self._disturbances["reloads"] += 1
        for node in self._nodes:
            if not await node.reload(self._plan.patience):
                self._faults.add(f"{node.name} did not reload")

    async def _reload_mistake(self) -> None:
        self._disturbances["reloads of a mistake"] += 1
        for node in self._nodes:
            if not await node.reload_mistake(self._plan.patience):
                self._faults.add(f"{node.name} did not refuse to reload a mistake")

    async def _kill_redis(self) -> None:
        await self._interfere("Redis killed", self._redis.fail)

    async def _hang_redis(self) -> None:
        await self._interfere("Redis suspended", self._redis.hang)

    async def _wipe_redis(self) -> None:
        self._ledger.wiped = time.monotonic()
        await self._interfere("Redis emptied", self._redis.forget)

    async def _interfere(self, name: str, fail: Callable[[float], Awaitable[None]]) -> None:
        self._disturbances[name] += 1
        self._ledger.disturbed = time.monotonic()
        await fail(min(_OUTAGE, self._plan.disturb / 4))
        self._ledger.disturbed = time.monotonic()

    async def _complete(self, clients: Sequence[Client], publishers: Publishers) -> None:
        """Wait until every client has everything."""
        await self._wipe_redis()
        deadline = time.monotonic() + publishers.waits + 2 * self._plan.patience
        left: list[Client] = []
        while time.monotonic() < deadline:
            await publishers.finish()
            await self._wait_for(lambda: all(one.complete() for one in clients), 2)
            left = [one for one in clients if not one.complete()]
            publishers.check()
            if not left and publishers.waits == 0:
                return
        for client in left:
            self._faults.add(f"{client.name} did not get the last publications")

    async def _leave(
        self, clients: Sequence[Client], before: Mapping[str, Mapping[Resource, float]]
    ) -> None:
        """Let all clients leave, and see whether everything is given back."""
        for client in clients:
            client.stop()
        if not await self._wait_for(lambda: all(client.gone for client in clients)):
            self._faults.add("some connections have not ended")
        await self._wait_until_idle()
        # Topics are kept for as long as their history.
        deadline = time.monotonic() + self._plan.history_ttl + self._plan.patience
        while True:
            after = await self._measure()
            remains = [
                line
                for owner, values in after.items()
                for line in find_remains(owner, before[owner], values)
            ]
            if not remains or time.monotonic() > deadline:
                break
            await asyncio.sleep(1)
        for line in remains:
            self._faults.add(line)

    async def _wait_until_idle(self) -> None:
        """Wait until the nodes have neither connections nor subscribers."""
        deadline = time.monotonic() + 2 * self._plan.patience
        for node in self._nodes:
            while True:
                metrics = await node.read_metrics()
                left = metrics["pushd_connections"], metrics["pushd_subscribers"]
                if not any(left):
                    break
                if time.monotonic() > deadline:
                    self._faults.add(
                        f"{node.name}: {left[0]:g} connections and {left[1]:g} subscribers are "
                        "left after all clients have gone"
                    )
                    break
                await asyncio.sleep(_LOOK)

    async def _wait_for(self, reached: Callable[[], bool], seconds: float | None = None) -> bool:
        deadline = time.monotonic() + (self._plan.patience if seconds is None else seconds)
        while not reached():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK)
        return True

    def _report(self, clients: Sequence[Client], publishers: Publishers) -> bool:
        """Print what has happened, and return whether all is well."""
        tally, say = self._tally, self._say
        trends = self._samples.judge()
        say(format_trends(trends))
        positions = [position for client in clients for position in client.positions()]
        rows = [("what has happened", "times")]
        for title, counts in (
            ("", self._disturbances),
            ("", publishers.done),
            ("connections: ", tally.opened),
            ("ended by clients: ", tally.ways),
            ("ended by daemons: ", tally.cuts),
            ("deliveries: ", tally.delivered),
        ):
            rows += [(f"{title}{name}", f"{times:,}") for name, times in sorted(counts.items())]
        rows += [
            ("conversations with views", f"{tally.conversations:,}"),
            ("subscriptions resumed", f"{sum(one.resumed for one in positions):,}"),
            ("told recovered: false", f"{sum(one.told for one in positions):,}"),
        ]
        say(format_table(rows))
        if tally.delays:
            p50, p99 = (1000 * find_percentile(tally.delays, share) for share in (0.5, 0.99))
            longest = 1000 * max(tally.delays)
            say(f"delay of live deliveries: p50 {p50:g} ms, p99 {p99:g} ms, max {longest:g} ms")
        grown = [
            f"{one.name} grew by {one.growth:,.1f} {one.unit}".rstrip()
            + f" ({one.allowed:,.1f} allowed)"
            for one in trends
            if not one.flat
        ]
        faults = [f"{self._faults.count} faults"] if self._faults.count else []
        if grown or faults:
            say(f"soak: FAILED: {'; '.join(grown + faults)}")
        else:
            say(f"soak: passed: all resources are flat, {self._ledger.compared:,} deliveries right")
        return not (grown or faults)


def find_percentile(counts: Counter[float], share: float) -> float:
    """Return the value below which a share of all counted values is, of at least one."""
    left = share * sum(counts.values())
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    raise ValueError("nothing was counted")
