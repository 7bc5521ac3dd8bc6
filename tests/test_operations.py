"""What docs/operations.md says of the options."""

from __future__ import annotations

import re
import shutil
import tempfile
import tomllib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd.options.command_line import Options
from pushd.options.table import OPTIONS
from tests.options_table import DOCUMENT, make_table, with_table


class OptionsTests(SynchronousTestCase):
    def test_table(self) -> None:
        """Every option is in the table as it is on the command line."""
        text = DOCUMENT.read_text()
        self.assertEqual(text, with_table(text), "the table is out of date: make options")
        for option in OPTIONS:
            self.assertRegex(text, rf"(?m)^\| `--{option.name}` \|")

    def test_table_made(self) -> None:
        """What stood in the table's place before is gone, what is around it stays."""
        text = DOCUMENT.read_text()
        stale = text.replace(make_table(), "| stale |\n")
        self.assertNotEqual(stale, text)
        self.assertEqual(with_table(stale), text)

    def test_toml(self) -> None:
        """The file that is shown has options of ours, in their types."""
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
