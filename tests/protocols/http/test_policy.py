"""The policy of a site."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.admission import Admission
from pushd.access.counters import Counters
from pushd.access.limits import Limits
from pushd.access.memory import Memory
from pushd.access.proxies import Proxies
from pushd.access.throttle import Throttle
from pushd.protocols.http.policy import SitePolicy


class BodyLimitTests(SynchronousTestCase):
    def test_limit(self) -> None:
        """Bodies, publications and batches have limits, which a reload changes."""
        limits, proxies, counters = Limits(), Proxies(), Counters()
        policy = SitePolicy(
            guard=lambda request: None,
            admission=Admission(limits, proxies),
            throttle=Throttle(Clock(), limits, proxies, counters.slowed),
            proxies=proxies,
            counters=counters,
            memory=Memory(Clock(), limits),
            limits=limits,
            wall=Clock().seconds,
            is_publication=lambda path: path == b"/topics/a",
            large_bodies={b"/publish": lambda size: 2 * size},
        )
        for size in (1000, 500):
            limits.change_to(Limits(max_message=size, max_body=size + 1))
            for path, limit, option in (
                (b"/publish", 2 * size, "--max-message"),
                (b"/topics/a", size, "--max-message"),
                (b"/publish/", size + 1, "--max-body"),
            ):
                self.assertEqual(policy.body_limit(path), limit)
                self.assertEqual(policy.body_option(path), option)
