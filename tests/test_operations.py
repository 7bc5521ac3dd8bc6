"""The options in docs/operations.md and in the manual pages, and the units of the package."""

from __future__ import annotations

import re
import shutil
import tempfile
import tomllib
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from twisted.trial.unittest import SynchronousTestCase

from pushd.client.arguments import make_parser
from pushd.options.command_line import Options
from pushd.options.settings import OPTIONS
from tests.support import man_pages
from tests.support.options_table import DOCUMENT, make_table, with_table

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


class OptionsTests(SynchronousTestCase):
    def test_table(self) -> None:
        """The table lists every option as the command line does."""
        text = DOCUMENT.read_text()
        self.assertEqual(text, with_table(text), "the table is out of date: run make options")
        for option in OPTIONS:
            self.assertRegex(text, rf"(?m)^\| `--{option.name}` \|")

    def test_table_made(self) -> None:
        """An outdated table is replaced; the text around it is kept."""
        text = DOCUMENT.read_text()
        stale = text.replace(make_table(), "| stale |\n")
        self.assertNotEqual(stale, text)
        self.assertEqual(with_table(stale), text)

    def test_toml(self) -> None:
        """The configuration files in the document are valid."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        blocks = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        self.assertTrue(blocks)
        for block in blocks:
            self.assertTrue(tomllib.loads(block))
            path = folder / "pushd.toml"
            path.write_text(block)
            options = Options({})
            options.parseOptions(["--config", str(path)])
            given = {one.name for one in OPTIONS if options.given[one.name].where}
            self.assertEqual(given, set(tomllib.loads(block)))


class ManPagesTests(SynchronousTestCase):
    def test_current(self) -> None:
        """The pages have every option and every command as the programs have them."""
        self.assertEqual(man_pages.outdated(), [], "out of date: run make options")
        daemon = (man_pages.FOLDER / "pushd.8").read_text().replace("\\-", "-")
        for option in OPTIONS:
            self.assertIn(f'\n.BI "--{option.name} "', daemon)
        command = (man_pages.FOLDER / "pushdctl.1").read_text().replace("\\-", "-")
        for name in make_parser({}).commands:
            self.assertRegex(command, rf"\n\.SS {name}\b")

    def test_escaped(self) -> None:
        """A line of text is never a request of roff, and characters are those of the text."""
        shown = list(man_pages.paragraph(".so /etc/passwd 'a' \\fB -x"))
        self.assertEqual(shown, ["\\&.so /etc/passwd \\(aqa\\(aq \\efB \\-x"])


class PackageTests(SynchronousTestCase):
    """deploy/debian, which ``make deb`` makes a package of."""

    def test_units(self) -> None:
        """The units of the package are those of deploy/systemd, but for its paths and its user."""
        expressions = re.findall(r"-e '(s\|.*\|)'", (DEPLOY / "debian/rules").read_text())
        self.assertEqual(len(expressions), 3)
        changed = {
            "WorkingDirectory=/usr/local/lib/pushd",
            "ExecStartPre=/usr/lib/pushd/bin/twistd pushd --check",
            "ExecStart=/usr/lib/pushd/bin/twistd --nodaemon --pidfile= pushd",
            "User=pushd",
        }
        for path in (DEPLOY / "systemd").iterdir():
            before = path.read_text().splitlines()
            after = [substitute(line, expressions) for line in before]
            new = {line for line, old in zip(after, before, strict=True) if line != old}
            self.assertEqual(new, changed if path.suffix == ".service" else set(), path.name)
            self.assertNotIn("/opt/pushd", "\n".join(after))

    def test_pins(self) -> None:
        """Each dependency, of the extras too, is pinned to a version that setup.cfg allows."""
        pinned = dict(
            re.findall(r"(?m)^([\w-]+)==(\S+)", (DEPLOY / "requirements.txt").read_text())
        )
        setup = ConfigParser()
        setup.read(ROOT / "setup.cfg")
        lines = setup["options"]["install_requires"].splitlines()
        for extra in ("centrifuge", "client", "redis", "uvloop"):
            lines += setup["options.extras_require"][extra].splitlines()
        wanted = [Requirement(line) for line in lines if line]
        self.assertGreater(len(wanted), 8)
        for one in wanted:
            self.assertIn(pinned[one.name], one.specifier, f"{one}: run make pins")


def substitute(line: str, expressions: list[str]) -> str:
    """Apply substitutions of sed to a line."""
    for expression in expressions:
        _, pattern, new, _ = expression.replace("$$", "$").split("|")
        line = re.sub(pattern, new, line)
    return line
