"""Static files beside an application."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from pushd.gateways.files import ApplicationFiles
from pushd.protocols.http.static import StaticFiles


class ApplicationFilesTests(SynchronousTestCase):
    """ApplicationFiles."""

    def test_find(self) -> None:
        """The operator's files are at their paths, the client's scripts below /pushd/."""
        with TemporaryDirectory() as own, TemporaryDirectory() as shipped:
            Path(own, "a.html").write_text("own")
            Path(shipped, "b.js").write_text("shipped")
            Path(shipped, "c.html").write_text("of the demo")
            files = ApplicationFiles(StaticFiles([Path(own)]), StaticFiles([Path(shipped)]))
            page, websocket = (
                SimpleNamespace(wants_websocket=False),
                SimpleNamespace(wants_websocket=True),
            )
            found = [
                path
                for path in ("/a.html", "/b.js", "/pushd/b.js", "/pushd/c.html", "/pushd/")
                if files.find(page, path) is not None
            ]
            self.assertEqual(found, ["/a.html", "/pushd/b.js"])
            self.assertIsNone(files.find(websocket, "/a.html"))
