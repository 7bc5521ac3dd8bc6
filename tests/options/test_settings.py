"""Settings: their defaults, and the options that they are made of."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.api.playground import Playground
from pushd.options.option import make_settings
from pushd.options.settings import GROUPS, OPTIONS, Settings, demo_views
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
            if one.name not in (
                "routes",
                "origins",
                "hosts",
                "control_hosts",
                "token_keys",
                "proxies",
                "rules",
            ):
                self.assertEqual(getattr(made, one.name), getattr(Settings(), one.name), one.name)
        self.assertEqual(list(made.routes), list(Settings().routes))
        self.assertEqual((list(made.rules), list(Settings().rules)), ([], []))

    def test_every_limit_is_an_option(self) -> None:
        """Each attribute of the limits and of the retention can be set with an option."""
        names = {option.name for option in OPTIONS}
        for kind, prefix in ((Limits, ""), (Retention, "history-")):
            for one in fields(kind):
                if one.init:
                    self.assertIn(prefix + one.name.replace("_", "-"), names)


class OptionsTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Each option has a name of its own, and its default is valid."""
        names = [option.name for option in OPTIONS]
        self.assertEqual(len(names), len({*names}))
        for option in OPTIONS:
            option.parse(option.default)

    def test_groups(self) -> None:
        """Options are in the order of their groups, and no group is empty."""
        found = [option.group for option in OPTIONS]
        self.assertEqual(list(dict.fromkeys(found)), list(GROUPS))
        self.assertEqual(found, sorted(found, key=GROUPS.index))

    def test_descriptions(self) -> None:
        """Each description is made of sentences, and says if an option may be repeated."""
        for option in OPTIONS:
            self.assertRegex(option.help, r"\A[A-Z].*\.\Z")
            self.assertEqual("May be given more than once." in option.help, option.repeatable)
