"""The settings: what they are where nobody decides."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

from twisted.trial.unittest import SynchronousTestCase

from pushd.api.playground import Playground
from pushd.options.settings import Settings, demo_views
from pushd.views.demo import ticker


class SettingsTests(SynchronousTestCase):
    def test_demo(self) -> None:
        """The demo is served by default: the ticker, and what the page of topics plays with."""
        self.assertEqual(list(demo_views()), ["/test/", *Playground().views])
        self.assertEqual(list(Settings().routes), list(demo_views()))
        self.assertIs(demo_views()["/test/"], ticker)

    def test_frozen(self) -> None:
        """What was decided does not change."""
        with self.assertRaises(FrozenInstanceError):
            Settings().threads = 1  # type: ignore[misc]
