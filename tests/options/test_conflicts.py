"""Values of options that conflict with each other."""

from __future__ import annotations

from functools import partial

from django.test import override_settings

from pushd.options.command_line import Options
from pushd.options.conflicts import find_exposed
from tests.options import options_case
from tests.options.options_case import OptionsTestCase, parse
from tests.support import django_site


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


class UnusedTests(OptionsTestCase):
    def test_centrifuge(self) -> None:
        """What is for Centrifuge clients needs a daemon that serves them."""
        (self.folder / "key").write_bytes(b"secret")
        self.module("procedures", "def call(): ...")
        for option, value in (
            ("--centrifuge-personal", "users/*"),
            ("--rpc", "procedures:call"),
            ("--api-key", "key"),
        ):
            self.assertEqual(self.mistake(option, value), f"pushd: {option}: needs --centrifuge on")
            parse("--centrifuge", "on", option, value)

    def test_root_path(self) -> None:
        """--root-path is for an ASGI application alone; / is the same as none."""
        self.assertEqual(self.mistake("--root-path", "/shop"), "pushd: --root-path: needs --asgi")
        self.assertEqual(parse("--root-path", "/").root_path, "")


class AuthorizerTests(OptionsTestCase):
    def test_setting(self) -> None:
        """A wrong PUSHD_AUTHORIZE of a Django site is a mistake, unless --authorize is given."""
        self.assertTrue(django_site.MIDDLEWARE)  # The import has configured Django.
        self.module("site_of_tests", "def application(environ, start_response): ...")
        application, given = "site_of_tests:application", "site_of_tests:view"
        self.patch(options_case, "Options", partial(Options, install_asyncio=int))
        for option in ("--wsgi", "--asgi"):
            with override_settings(PUSHD_AUTHORIZE="nowhere.may"):
                mistake = self.mistake(option, application)
                self.assertIn(f"pushd: {option}: PUSHD_AUTHORIZE = 'nowhere.may': ", mistake)
                parse(option, application, "--authorize", given)
                parse()
            parse(option, application)


class ExposedTests(OptionsTestCase):
    def test_addresses(self) -> None:
        """A control port is exposed unless only this machine can connect to it."""
        exposed = [
            "tcp:8081",
            "tcp:8081:interface=0.0.0.0",
            "tcp:8081:interface=10.1.2.3",
            "tcp6:8081",
            "haproxy:tcp:8081",
            "reuseport:8081",
        ]
        closed = [
            "tcp:8081:interface=127.0.0.1",
            "tcp:8081:interface=localhost",
            "tcp:8081:interface=\\:\\:1",
            "tcp6:8081:interface=\\:\\:1",
            "reuseport:8081:interface=127.0.0.1",
            "unix:/run/control",
            "systemd:domain=INET:index=0",
        ]
        self.assertEqual(list(find_exposed(exposed + closed)), exposed)
