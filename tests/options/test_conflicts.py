"""Values of options that conflict with each other."""

from __future__ import annotations

from tests.options.options_case import OptionsTestCase, parse


class ConflictTests(OptionsTestCase):
    def test_shared_endpoint(self) -> None:
        """An endpoint cannot be given twice."""
        self.assertEqual(
            self.mistake("--listen", "tcp:1", "--control", "tcp:1"),
            "pushd: --listen and --control: the endpoint tcp:1 is given 2 times",
        )
        self.assertEqual(
            self.mistake("--listen=tcp:1", "--listen=tcp:2", "--listen=tcp:1"),
            "pushd: --listen: the endpoint tcp:1 is given 2 times",
        )
        file = self.write('listen = ["tcp:1"]')
        self.assertEqual(
            self.mistake("--config", file, "--control", "tcp:1"),
            "pushd: pushd.toml: listen and --control: the endpoint tcp:1 is given 2 times",
        )

    def test_any_port(self) -> None:
        """An endpoint with port 0 may be given twice: the system picks different ports."""
        for endpoint in ("tcp:0", "tcp:0:interface=127.0.0.1", "tcp6:0", "haproxy:tcp:0"):
            self.assertEqual(
                parse("--listen", endpoint, "--control", endpoint).control, (endpoint,)
            )
        self.mistake("--listen", "tcp:01", "--control", "tcp:01")
