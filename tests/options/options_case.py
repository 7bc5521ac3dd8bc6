"""A test case that parses command lines in a directory of its own."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd.options.command_line import Options
from pushd.options.settings import Settings


def parse(*args: str) -> Settings:
    """Return the settings for a command line."""
    return parse_in({}, *args)


def parse_in(environ: Mapping[str, str], *args: str) -> Settings:
    """Return the settings for a command line in an environment."""
    options = Options(environ)
    options.parseOptions(list(args))
    return options.settings


class OptionsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Change to an empty directory, from which modules can be imported as a daemon does."""
        self.folder = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        self.patch(sys, "path", list(sys.path))
        self.addCleanup(self.forget_modules)
        self.patch(sys, "dont_write_bytecode", True)

    def forget_modules(self) -> None:
        """Remove the modules of this test, so that no other test imports them."""
        for name, module in list(sys.modules.items()):
            places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
            if any(place and Path(place).is_relative_to(self.folder) for place in places):
                del sys.modules[name]

    def mistake(self, *args: str, **environ: str) -> str:
        """Return the one line with which a bad command line ends the process, with exit code 1."""
        with self.assertRaises(SystemExit) as raised:
            parse_in(environ, *args)
        line = raised.exception.code
        # Python prints a SystemExit that has a string to stderr, and exits with 1.
        assert isinstance(line, str), f"{line!r} is not a string"
        self.assertTrue(line.startswith("pushd: "), line)
        self.assertEqual(line.splitlines(), [line])
        return line

    def assert_mistake(self, option: str, given: str, *allowed: str) -> None:
        """Check that a value is refused in one line with the option, the value and the rule."""
        line = self.mistake(f"--{option}", given)
        self.assertTrue(line.startswith(f"pushd: --{option} {given}".rstrip()), line)
        for word in allowed:
            self.assertIn(word, line)

    def run_and_exit(self, *args: str, **environ: str) -> tuple[str, object]:
        """Return what a command line prints before it exits, and the exit code."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output), self.assertRaises(SystemExit) as raised:
            parse_in(environ, *args)
        return output.getvalue(), raised.exception.code

    def module(self, name: str, *lines: str) -> str:
        """Write a module into the current directory that has a view named ``view``."""
        source = ["def view(request):", "    return 'hello'", "", *lines]
        (self.folder / f"{name}.py").write_text("\n".join(source))
        return name

    def write(self, *lines: str) -> str:
        """Write a configuration file, and return its name."""
        (self.folder / "pushd.toml").write_text("".join(f"{line}\n" for line in lines))
        return "pushd.toml"
