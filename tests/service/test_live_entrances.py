"""What each door asks of all who come: how many may come, and with how much."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.counters import Metrics
from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.options.settings import Settings
from pushd.service.live import LiveSettings, control_policy, public_policy

# Larger than what a batch may have in any case.
LARGE = 16 << 20


class EntranceTests(SynchronousTestCase):
    """The entrances of a daemon that takes large messages, few people, and one proxy's word."""

    def setUp(self) -> None:
        """Make both."""
        settings = Settings(
            limits=Limits(max_message=LARGE, max_connections=3, max_per_address=2),
            proxies=Proxies(["10.0.0.1"]),
        )
        live = LiveSettings(lambda wanted: wanted)
        live.apply(settings)
        self.public = public_policy(live, settings.proxies, Metrics())
        self.control = control_policy(live, Metrics())

    def test_places(self) -> None:
        """Strangers get the places that there are for them; operators always have some."""
        for policy, here, there in (
            (self.public, [True, True, False, False], [True, False]),
            (self.control, [True] * 4, [True] * 2),
        ):
            admission = policy.admission
            self.assertEqual([admission.admit("1.2.3.4") is not None for _ in range(4)], here)
            self.assertEqual([admission.admit("1.2.3.5") is not None for _ in range(2)], there)

    def test_bodies(self) -> None:
        """A body is as large as a message; a batch of them is larger, at the control port alone."""
        for path, public, control in (
            (b"/topics/t", LARGE, LARGE),
            (b"/publish", LARGE, 2 * LARGE),
        ):
            self.assertEqual(self.public.body_limit(path), public)
            self.assertEqual(self.control.body_limit(path), control)

    def test_proxies(self) -> None:
        """Proxies are believed at the public port only."""
        self.assertTrue(self.public.proxies.is_trusted("10.0.0.1"))
        self.assertFalse(self.control.proxies.is_trusted("10.0.0.1"))
