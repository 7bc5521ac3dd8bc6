"""``manage.py runpushd``: pushd in place of runserver, for development.

It serves the application that the setting ASGI_APPLICATION names, as Daphne's runserver does, or
else that of WSGI_APPLICATION.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler, StaticFilesHandler
from django.core.management.base import BaseCommand, CommandError
from django.utils import autoreload
from twisted.logger import globalLogBeginner, textFileLogObserver

from pushd.options.command_line import Options
from pushd.options.event_loop import ASYNCIO, TWISTED
from pushd.options.settings import Settings
from pushd.service.process.logs import LogStyle
from pushd.service.twistd import makeService

_ASGI, _WSGI = "ASGI_APPLICATION", "WSGI_APPLICATION"


class Command(BaseCommand):
    """Serves the site and its static files, and restarts when its code changes."""

    help = "Serves this site with pushd, WebSockets included, and reloads its code."
    # serve() runs the checks, where the reloader reports their errors.
    requires_system_checks: tuple[str, ...] = ()

    # What stands behind -- on the command line.
    _pushd_options: Sequence[str] = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """Run a command line, with the options of twistd pushd behind its ``--``.

        argparse takes positional arguments once only: those that stand behind an option are not
        recognized if the address stands before it.
        """
        if "--" in argv:
            end = argv.index("--")
            argv, self._pushd_options = argv[:end], argv[end + 1 :]
        super().run_from_argv(argv)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the application, the address to listen on, and options of pushd."""
        parser.add_argument(
            "args",
            nargs="*",
            metavar="[ADDRESS:]PORT [-- OPTION ...]",
            help="address to listen on (default: 8000), and options of twistd pushd",
        )
        kind = parser.add_mutually_exclusive_group()
        kind.add_argument(
            "--asgi",
            action="store_const",
            dest="kind",
            const="asgi",
            help="serve ASGI_APPLICATION: the default if the settings name one",
        )
        kind.add_argument(
            "--wsgi", action="store_const", dest="kind", const="wsgi", help="serve WSGI_APPLICATION"
        )
        parser.add_argument(
            "--loop", choices=(TWISTED, ASYNCIO), help="event loop; with --asgi, asyncio's"
        )
        parser.add_argument(
            "--noreload", action="store_false", dest="reload", help="do not watch the code"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until Ctrl-C."""
        given = [*args, *self._pushd_options]
        addrport = given.pop(0) if given and not given[0].startswith("-") else "8000"
        given = ["--listen", _endpoint(addrport), *given]
        if options["loop"] is not None:
            given += ["--loop", options["loop"]]
        _parse(given)  # Report mistakes now, not after the reloader has started.
        kind = options["kind"] or ("asgi" if getattr(settings, _ASGI, None) else "wsgi")
        if options["reload"]:
            autoreload.run_with_reloader(self.serve, kind=kind, given=given, in_thread=True)
        else:
            self.serve(kind=kind, given=given, in_thread=False)

    def serve(self, *, kind: str, given: list[str], in_thread: bool) -> None:
        """Serve, in the reloader's thread or the main one.

        :param kind: ``asgi`` or ``wsgi``.
        """
        autoreload.raise_last_exception()
        self.check()
        setting = _ASGI if kind == "asgi" else _WSGI
        module, _, name = (getattr(settings, setting, None) or "").rpartition(".")
        if not module:
            raise CommandError(f"the setting {setting} names no application")
        if in_thread:
            _import_code(module)
        options = _parse([f"--{kind}", f"{module}:{name}", *given])
        if settings.DEBUG and "django.contrib.staticfiles" in settings.INSTALLED_APPS:
            options.settings = _with_static_files(options.settings)
        style = LogStyle(
            as_json=options.settings.log_format == "json", level=options.settings.log_level
        )
        globalLogBeginner.beginLoggingTo(
            [style.apply_to(textFileLogObserver(self.stdout))], redirectStandardIO=False
        )
        reactor = self.get_reactor()
        try:
            service = makeService(options, reactor, style)
            service.privilegedStartService()
        except SystemExit as error:
            advice = " With runpushd: manage.py runpushd [ADDRESS:]PORT -- --control none."
            in_use = "another endpoint" in str(error)
            self.stderr.write(f"{error}{advice if in_use else ''}")
            sys.stderr.flush()
            os._exit(1)  # SystemExit would end this thread only.
        service.startService()
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
        reactor.run(installSignalHandlers=not in_thread)

    def get_reactor(self) -> Any:
        """Return the global reactor, which this command runs as twistd would."""
        from twisted.internet import reactor

        return reactor


def _endpoint(addrport: str) -> str:
    address, _, port = addrport.rpartition(":")
    interface = address.strip("[]").replace(":", "\\:") or "127.0.0.1"
    return f"tcp:{port}:interface={interface}"


def _import_code(module: str) -> None:
    """Import the application's module and that of the authorizer, if there are such modules.

    The reloader watches the file in which an exception is raised. The message of an option, which
    takes the place of the exception, would leave it waiting for a change of pushd's own code.
    """
    authorizer = getattr(settings, "PUSHD_AUTHORIZE", None)
    for name in (module, authorizer.rpartition(".")[0] if isinstance(authorizer, str) else ""):
        try:
            if name:
                import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise


def _with_static_files(settings: Settings) -> Settings:
    """Put the static files of the site in front of its application."""
    if settings.asgi is None:
        return replace(settings, wsgi=StaticFilesHandler(settings.wsgi))
    return replace(settings, asgi=ASGIStaticFilesHandler(settings.asgi))


def _parse(given: list[str]) -> Options:
    options = Options()
    if "--reload" in given:
        raise CommandError("runpushd reloads the code by itself: leave out --reload")
    try:
        options.parseOptions(given)
    except SystemExit as error:
        raise CommandError(str(error)) from None
    return options
