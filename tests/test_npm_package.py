"""The npm package of the browser's client: what it declares, and what its types say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd import __version__

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / "web"


def read(name: str) -> str:
    """Return the text of a file of the client."""
    return (CLIENT / name).read_text()


def find_members(name: str) -> set[str]:
    """Return the names of an interface's members, with those that it inherits."""
    text = re.sub(r"/\*\*.*?\*/", "", read("pushd.d.ts"), flags=re.DOTALL)
    head = rf"interface {name}(?:<[^>]*>)?(?: extends (\w+))?[^{{]*"
    match = re.search(rf"\b{head}{{(.*?)\n}}", text, re.DOTALL)
    assert match, name
    own = set(re.findall(r"^  (?:readonly )?(\w+)\??[:<(]", match[2], re.MULTILINE))
    return own | (find_members(match[1]) if match[1] else set())


class ManifestTests(SynchronousTestCase):
    """web/package.json."""

    manifest: Any = json.loads(read("package.json"))

    def test_version(self) -> None:
        """Package and daemon have one version."""
        self.assertEqual(self.manifest["version"], __version__)

    def test_exports(self) -> None:
        """The files that it names are there."""
        main = self.manifest["exports"]["."]
        self.assertEqual(main, {"types": "./pushd.d.ts", "default": "./pushd.js"})
        for name in (*main.values(), self.manifest["types"]):
            self.assertTrue((CLIENT / name).is_file(), name)

    def test_license(self) -> None:
        """The package has the licence of the project."""
        self.assertEqual(read("LICENSE"), (ROOT / "LICENSE").read_text())

    def test_imports(self) -> None:
        """The scripts import each other only, and all of them are needed."""
        seen: set[str] = set()
        waiting = ["pushd.js"]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                imported = re.findall(r'^(?:im|ex)port .* from "(.*)";$', read(name), re.MULTILINE)
                self.assertEqual([one for one in imported if not one.startswith("./")], [], name)
                waiting += [one.removeprefix("./") for one in imported]
        self.assertEqual(seen, {path.name for path in CLIENT.glob("*.js")})


class TypesTests(SynchronousTestCase):
    """web/pushd.d.ts names what the comments of the scripts name."""

    def test_exports(self) -> None:
        """Each export has a type, and nothing else is declared to be there."""
        script = read("pushd.js")
        exported = set(re.findall(r"^export (?:async )?function (\w+)", script, re.MULTILINE))
        for names in re.findall(r"^export {([^}]*)}", script, re.MULTILINE):
            exported |= set(re.findall(r"\w+", names))
        declared = re.findall(r"^export function (\w+)", read("pushd.d.ts"), re.MULTILINE)
        self.assertEqual(set(declared), exported)

    def test_subscribe(self) -> None:
        """Each option of ``subscribe()`` has a type."""
        documented = re.findall(r"@param {.*?} \[options\.(\w+)\]", self._comment("pushd.js"))
        self.assertEqual(find_members("SubscribeOptions"), set(documented))

    def test_connect(self) -> None:
        """So has each option of ``connect()``, and of the topics of its connection."""
        comment = self._comment("multiplex.js")
        [shared] = re.findall(r"\[options\] (.*?) as for `subscribe\(\)`", comment)
        own = re.findall(r"\[options\.(\w+)\]", comment)
        self.assertEqual(find_members("ConnectOptions"), {*re.findall(r"`(\w+)`", shared), *own})
        listed = re.findall(r" - `(\w+)", comment)
        self.assertEqual(find_members("TopicOptions"), set(listed))
        [returned] = re.findall(r"and returns `{(.*?)}`", comment)
        self.assertEqual(find_members("TopicSubscription"), set(re.findall(r"\w+", returned)))

    def _comment(self, name: str) -> str:
        """Return the last comment before the main function of a script, on one line."""
        before = read(name).partition("\nexport function ")[0]
        return re.sub(r"\s*\n \* *", " ", before.rpartition("/**")[2])
