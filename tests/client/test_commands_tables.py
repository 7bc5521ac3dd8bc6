"""What commands print, for people and for programs."""

from __future__ import annotations

import io
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.client.commands import print_json, print_table, printable


class TableTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Have something to print to."""
        self.file = io.StringIO()

    def test_columns(self) -> None:
        """Each column is as wide as its widest cell, and no line ends in blanks."""
        print_table(["ID", "WHO"], [["1", "somebody"], ["1000", ""]], self.file)
        self.assertEqual(self.file.getvalue(), "ID    WHO\n1     somebody\n1000\n")

    def test_empty(self) -> None:
        """Where there is nothing there is the head."""
        print_table(["ID", "WHO"], [], self.file)
        self.assertEqual(self.file.getvalue(), "ID  WHO\n")

    def test_printable(self) -> None:
        """What a stranger chose can't play with the terminal, nor begin a row."""
        print_table(["WHO"], [["tschüß\n\x1b[31m"]], self.file)
        self.assertEqual(self.file.getvalue(), "WHO\ntschüß\\n\\x1b[31m\n")
        self.assertEqual(printable("a\u202eb\t"), "a\\u202eb\\t")

    def test_json(self) -> None:
        """Values are a line each, in letters that people read."""
        values: list[Any] = [{"a": "ü\n"}, None]
        print_json(values, self.file)
        self.assertEqual(self.file.getvalue(), '{"a": "ü\\n"}\nnull\n')
