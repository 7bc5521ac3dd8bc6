"""The Python files of an application, and starting the process anew."""

from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from pushd.options.code_files import (
    CodeFiles,
    CommandLine,
    find_mistake,
    find_objection,
    make_state,
    remove_state_at_exit,
    wait_for_change,
)
from tests.support.keyring import FolderTestCase


class CodeFilesTests(FolderTestCase):
    def setUp(self) -> None:
        """Make an application of one module."""
        super().setUp()
        self.file = self.folder / "hello.py"
        self.file.write_text("one\n")
        self.modules = {"hello": self.module(self.file), "sys": sys}
        self.searched: dict[str, object] = {}

    def module(self, path: Path) -> ModuleType:
        """Return a module that was imported from a file."""
        module = ModuleType(path.stem)
        module.__file__ = str(path)
        return module

    def files(self) -> CodeFiles:
        """Look at the files for the first time."""
        return CodeFiles(self.modules, self.searched)

    def settled(self, files: CodeFiles) -> list[str]:
        """Look twice, as nothing is reported before it has settled."""
        self.assertEqual(files.changed(), [])
        return files.changed()

    def test_changed(self) -> None:
        """A change is reported once, when the file is the same in two successive looks."""
        files = self.files()
        self.assertEqual((files.count, files.changed()), (1, []))
        self.file.write_text("two, and longer\n")
        self.assertEqual(files.changed(), [])
        self.file.write_text("two, and longer still\n")
        self.assertEqual(self.settled(files), [str(self.file)])
        self.assertEqual(files.changed(), [])

    def test_siblings(self) -> None:
        """So are files beside a module that are made and removed, as an import may have failed."""
        files = self.files()
        other = self.folder / "other.py"
        other.write_text("")
        (self.folder / "notes.txt").write_text("")
        self.assertEqual(self.settled(files), [str(other)])
        other.unlink()
        self.assertEqual(self.settled(files), [str(other)])

    def test_searched(self) -> None:
        """A folder counts in which modules were looked for, even if none was found."""
        folder = self.folder / "package"
        folder.mkdir()
        self.searched = {str(folder): None, str(self.folder / "missing"): None}
        files = self.files()
        (folder / "new.py").write_text("")
        self.assertEqual(self.settled(files), [str(folder / "new.py")])

    def test_later_import(self) -> None:
        """The files of a folder from which something is imported later are no change."""
        folder = self.folder / "package"
        folder.mkdir()
        (folder / "late.py").write_text("")
        files = self.files()
        self.modules["late"] = self.module(folder / "late.py")
        self.assertEqual(self.settled(files), [])
        self.assertEqual(files.count, 2)
        (folder / "late.py").write_text("changed\n")
        self.assertEqual(self.settled(files), [str(folder / "late.py")])

    def test_not_the_application(self) -> None:
        """Python's own modules, installed ones and modules without a file do not count."""
        installed = self.folder / "site-packages"
        installed.mkdir()
        (installed / "library.py").write_text("")
        self.modules |= {"json": json, "library": self.module(installed / "library.py")}
        self.modules["namespace"] = ModuleType("namespace")
        self.searched = {str(installed): None}
        self.assertEqual(self.files().count, 1)

    def test_gone(self) -> None:
        """A folder that is removed leaves no files."""
        folder = self.folder / "package"
        folder.mkdir()
        (folder / "module.py").write_text("")
        self.modules["module"] = self.module(folder / "module.py")
        files = self.files()
        (folder / "module.py").unlink()
        folder.rmdir()
        self.assertEqual(self.settled(files), [str(folder / "module.py")])

    def test_defaults(self) -> None:
        """By default the modules of this process are looked at, those of pushd among them."""
        self.assertGreater(CodeFiles().count, 0)

    def test_wait(self) -> None:
        """The wait for a change ends with the change, or with Ctrl-C."""
        files, pauses = self.files(), list[float]()

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                self.file.write_text("changed\n")

        wait_for_change(files, sleep)
        self.assertEqual(pauses, [0.25] * 3)

        def interrupt(seconds: float) -> None:
            raise KeyboardInterrupt

        with self.assertRaises(SystemExit) as caught:
            wait_for_change(files, interrupt)
        self.assertEqual(caught.exception.code, 130)


class MistakeTests(FolderTestCase):
    def test_mistakes(self) -> None:
        """A file that is not valid Python is described in one line, with its path."""
        path = self.folder / "views.py"
        for source, line in (
            (b"x = 1\ny = = 2\n", f"{path}, line 2: invalid syntax"),
            (b"def f(:\n", f"{path}, line 1: invalid syntax"),
            (b"x = '\\d'\n", None),
            (b"x = 1\n", None),
        ):
            path.write_bytes(source)
            self.assertEqual(find_mistake(str(path)), line)
        path.write_bytes(b"x = 1\0\n")
        self.assertIn("null bytes", find_mistake(str(path)) or "")
        path.unlink()
        self.assertIsNone(find_mistake(str(path)))


class CommandLineTests(FolderTestCase):
    def test_start_again(self) -> None:
        """The process is replaced by one with its command, in its folder and environment."""
        self.addCleanup(os.chdir, os.getcwd())
        (self.folder / "x.pid").write_text("1")
        executed: list[object] = []

        def execute(*args: object) -> NoReturn:
            executed.extend([*args, os.getcwd()])
            raise SystemExit

        for pidfile in ("x.pid", "x.pid", None):
            command = CommandLine(
                arguments=["/python", "twistd"],
                folder=str(self.folder),
                environ={"A": "b"},
                pidfile=pidfile,
                execute=execute,
            )
            self.assertRaises(SystemExit, command.start_again)
        self.assertEqual(executed[:4], ["/python", ["/python", "twistd"], {"A": "b"}, os.getcwd()])
        self.assertFalse((self.folder / "x.pid").exists())


class ObjectionTests(FolderTestCase):
    def test_objections(self) -> None:
        """Neither a daemon in the background nor a service of systemd may reload its code."""
        self.assertIsNone(find_objection({}, in_foreground=True))
        self.assertIn("twistd -n", find_objection({}, in_foreground=False) or "")
        for name in ("NOTIFY_SOCKET", "LISTEN_PID"):
            self.assertIn("systemd", find_objection({name: "1"}, in_foreground=True) or "")


class StateTests(FolderTestCase):
    def test_state(self) -> None:
        """The directory for the topics is removed when the process ends; no other one is."""
        at_exit: list[Callable[[], object]] = []

        def register(call: Callable[..., object], *args: object, **options: object) -> None:
            at_exit.append(partial(call, *args, **options))

        self.patch(atexit, "register", register)
        self.patch(tempfile, "tempdir", str(self.folder))
        made = make_state()
        self.assertTrue(Path(made).is_dir())
        remove_state_at_exit(str(self.folder / "mine"))
        remove_state_at_exit("/somewhere/pushd-reload-x")
        (remove,) = at_exit
        remove()
        self.assertFalse(Path(made).exists())
