"""The options that bound the past of topics."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.options.command_line import Options
from pushd.topics.history import Retention


class RetentionTests(SynchronousTestCase):
    """``--history-size``, ``--history-ttl`` and ``--history-bytes``."""

    def parse(self, *args: str) -> Retention:
        """The settings that a command line amounts to."""
        options = Options()
        options.parseOptions(args)
        return options.settings.retention

    def test_defaults(self) -> None:
        """A hundred publications of each topic, five minutes, 64 MiB of all."""
        self.assertEqual(self.parse(), Retention(size=100, ttl=300, bytes=64 << 20))
        self.assertEqual(Retention(), Retention(size=100, ttl=300, bytes=64 << 20))

    def test_given(self) -> None:
        """Each can be given; a size or bytes of 0 keep nothing."""
        retention = self.parse("--history-size=0", "--history-ttl=1", "--history-bytes=0")
        self.assertEqual(retention, Retention(size=0, ttl=1, bytes=0))

    def test_bad(self) -> None:
        """What is out of range is refused, by the option's name."""
        for option in (
            *("--history-size=-1", "--history-size=1000001", "--history-size=x"),
            *("--history-ttl=0", "--history-ttl=604801", "--history-ttl=1.5"),
            *("--history-bytes=-1", "--history-bytes=64M"),
        ):
            error = self.assertRaises(SystemExit, self.parse, option)
            self.assertIn(option.partition("=")[0], str(error))
