"""What a release needs: one version everywhere, news without fragments left, and checksums."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd import __version__
from tests.release import artifacts
from tests.release.ready import find_faults, read_versions

ROOT = Path(__file__).parent.parent

FILES = (
    *("NEWS.md", "pyproject.toml", "pushd/__init__.py", "web/index.html", "web/package.json"),
    *("docs/reference/openapi-public.yaml", "docs/reference/openapi-control.yaml"),
    "newsfragments/template.jinja",
)


class CheckoutTestCase(SynchronousTestCase):
    """Tests with a copy of what a release looks at, in a repository of its own."""

    def setUp(self) -> None:
        """Make it."""
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        for name in FILES:
            place = self.root / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place)
        # No version has been released yet.
        news = self.root / "NEWS.md"
        news.write_text("".join(news.read_text().partition("<!-- news -->\n")[:2]))
        self.git("init", "--quiet")
        self.commit()

    def git(self, *arguments: str) -> None:
        """Run git, without the settings of whoever runs the tests."""
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        command = ["git", *identity, "-c", "commit.gpgsign=false", *arguments]
        subprocess.run(command, cwd=self.root, check=True)

    def commit(self) -> None:
        """Commit all files."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "x")

    def make_news(self) -> None:
        """Do what ``make news`` does."""
        makefile = (ROOT / "Makefile").read_text()
        self.assertIn("$(BIN)/towncrier build --yes --version", makefile)
        command = ["-m", "towncrier", "build", "--yes", "--version", __version__]
        subprocess.run(
            [sys.executable, *command], cwd=self.root, check=True, capture_output=True, timeout=60
        )

    def release(self, name: str, old: str, new: str) -> list[str]:
        """Change a file, and return what is wrong with the checkout, once it is committed."""
        path = self.root / name
        text = path.read_text()
        self.assertIn(old, text)
        path.write_text(text.replace(old, new))
        self.commit()
        return find_faults(self.root)


class VersionTests(SynchronousTestCase):
    def test_versions(self) -> None:
        """All files have the same version."""
        self.assertEqual(set(read_versions(ROOT).values()), {__version__})

    def test_classifier(self) -> None:
        """A version from 1.0.0 on is stable, and says so."""
        stable = "Development Status :: 5 - Production/Stable" in (ROOT / "setup.cfg").read_text()
        self.assertEqual(stable, not __version__.startswith("0."))


class ReadyTests(CheckoutTestCase):
    def test_ready(self) -> None:
        """With news, and without changes, nothing is missing."""
        (self.root / "newsfragments/1.feature").write_text("It can do *more*.\n")
        (self.root / "newsfragments/2.misc").write_text("Nobody notices.\n")
        self.commit()
        faults = find_faults(self.root)
        self.assertEqual(len(faults), 2)
        self.assertRegex(faults[0], "^2 newsfragments are left, such as 1.feature: run make news")
        self.assertEqual(faults[1], f"NEWS.md says nothing of {__version__}")
        self.make_news()
        [fault] = find_faults(self.root)
        self.assertRegex(fault, r"^the working tree has \d changes, such as NEWS.md: commit them")
        self.commit()
        self.assertEqual(find_faults(self.root), [])

    def test_news(self) -> None:
        """The news list what was new under the version, and keep what stands above and below."""
        head, mark, tail = (self.root / "NEWS.md").read_text().partition("<!-- news -->\n")
        self.assertTrue(mark)
        (self.root / "newsfragments/1.feature").write_text("One.\n")
        (self.root / "newsfragments/10.feature.7").write_text("Two,\non two lines.\n")
        (self.root / "newsfragments/1.bugfix").write_text("Three.\n")
        (self.root / "newsfragments/1.misc").write_text("Four.\n")
        self.commit()
        self.make_news()
        news = (self.root / "NEWS.md").read_text()
        self.assertTrue(news.startswith(head + mark))
        self.assertTrue(news.endswith(tail))
        listed = "### New\n\n- One.\n- Two,\n  on two lines.\n\n### Fixed\n\n- Three."
        dated = rf"## {re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)"
        added = news.removeprefix(head + mark).removesuffix(tail).strip()
        self.assertRegex(added, rf"^{dated}\n\n{re.escape(listed)}$")
        left = [path.name for path in (self.root / "newsfragments").iterdir()]
        self.assertEqual(left, ["template.jinja"])

    def test_versions(self) -> None:
        """A file with another version is named, and so is a version with a suffix."""
        faults = self.release("web/index.html", f">{__version__}<", ">0.0.1<")
        expected = f"web/index.html has the version 0.0.1, and pushd/__init__.py {__version__}"
        self.assertIn(expected, faults)
        self.assertIn(
            f"{__version__}.dev1 is not the version of a release, such as 1.2.3",
            self.release("pushd/__init__.py", f'"{__version__}"', f'"{__version__}.dev1"'),
        )
        self.assertIn(
            f"docs/reference/openapi-public.yaml has the version none, and pushd/__init__.py "
            f"{__version__}.dev1",
            self.release("docs/reference/openapi-public.yaml", "\n  version: ", "\n  edition: "),
        )


class ArtifactTests(CheckoutTestCase):
    def test_sums(self) -> None:
        """The checksums are those that sha256sum reads."""
        paths = [self.root / "NEWS.md", self.root / "pyproject.toml"]
        sums = artifacts.write_sums(paths)
        lines = sums.read_text().splitlines()
        self.assertEqual([line.split()[1] for line in lines], [path.name for path in paths])
        paths[0].write_text("other")
        done = subprocess.run(
            ["sha256sum", "--check", sums.name], cwd=self.root, capture_output=True, check=False
        )
        self.assertNotEqual(done.returncode, 0)

    def test_targets(self) -> None:
        """Only what has a target is made."""
        self.assertTrue(artifacts.has_target(ROOT, "release"))
        self.assertFalse(artifacts.has_target(ROOT, "releas"))

    def test_deb(self) -> None:
        """A Debian package must be that of this version, with any revision."""
        for version, is_good in ((f"{__version__}-1", True), (__version__, True), ("0.1-1", False)):
            content = self.root / version / "DEBIAN"
            content.mkdir(parents=True)
            (content / "control").write_text(
                f"Package: pushd\nVersion: {version}\nArchitecture: all\n"
                "Maintainer: t <t@example.org>\nDescription: for a test\n"
            )
            path = self.root / f"pushd_{version}_all.deb"
            command = ["dpkg-deb", "--build", "--root-owner-group", str(content.parent), str(path)]
            subprocess.run(command, check=True, capture_output=True)
            if is_good:
                artifacts.check(path, __version__)
            else:
                self.assertRaises(AssertionError, artifacts.check, path, __version__)

    def test_unknown_file(self) -> None:
        """A file that is no part of a release is not passed over."""
        with self.assertRaisesRegex(AssertionError, "x.zip is no file of a release"):
            artifacts.check(Path("dist/x.zip"), __version__)

    def test_failing_command(self) -> None:
        """A command that fails is named, with what it has printed."""
        with self.assertRaisesRegex(AssertionError, "sh -c echo why; exit 3:\nwhy\n"):
            artifacts._run("sh", "-c", "echo why; exit 3", cwd=self.root)
