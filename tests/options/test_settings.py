"""Settings: their defaults, and the options that they are made of."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.api.playground import Playground
from pushd.options.option import make_settings
from pushd.options.settings import Settings, demo_views
from pushd.options.table import OPTIONS
from pushd.topics.history import Retention
from pushd.views.demo import ticker


class SettingsTests(SynchronousTestCase):
    def test_demo(self) -> None:
        """The demo is served by default: the ticker, and the views of the playground."""
        self.assertEqual(list(demo_views()), ["/test/", *Playground().views])
        self.assertEqual(list(Settings().routes), list(demo_views()))
        self.assertIs(demo_views()["/test/"], ticker)

    def test_frozen(self) -> None:
        """Settings cannot be changed."""
        with self.assertRaises(FrozenInstanceError):
            Settings().threads = 1  # type: ignore[misc] # which is what must fail

    def test_defaults(self) -> None:
        """Settings made without arguments are those of a command line without options."""
        made = make_settings(Settings, {one.name: one.parse(one.default) for one in OPTIONS})
        for one in fields(Settings):
            if one.name not in ("routes", "origins", "hosts", "token_keys", "proxies"):
                self.assertEqual(getattr(made, one.name), getattr(Settings(), one.name), one.name)
        self.assertEqual(list(made.routes), list(Settings().routes))

    def test_every_limit_is_an_option(self) -> None:
        """Each attribute of the limits and of the retention can be set with an option."""
        names = {option.name for option in OPTIONS}
        for kind, prefix in ((Limits, ""), (Retention, "history-")):
            for one in fields(kind):
                if one.init:
                    self.assertIn(prefix + one.name.replace("_", "-"), names)
