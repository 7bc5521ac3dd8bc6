"""The options in docs/operations.md."""

from __future__ import annotations

import re
import shutil
import tempfile
import tomllib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd.options.command_line import Options
from pushd.options.settings import OPTIONS
from tests.support.options_table import DOCUMENT, make_table, with_table


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
