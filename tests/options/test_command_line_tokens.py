"""``--token-key``."""

from __future__ import annotations

from pushd.access.tokens import TokenKeys
from pushd.options.command_line import Options
from tests.keyring import SECRET, FolderTestCase, private_key, public_pem, sign


class TokenKeyTests(FolderTestCase):
    """The files of keys."""

    def parse(self, *args: str) -> TokenKeys:
        """The settings that a command line amounts to."""
        options = Options()
        options.parseOptions(args)
        return options.settings.token_keys

    def test_none(self) -> None:
        """Without any, nobody is asked for a token."""
        self.assertFalse(self.parse())

    def test_some(self) -> None:
        """It may be given more than once; each key counts."""
        files = [self.write(SECRET), self.write(public_pem("ES256"))]
        keys = self.parse(*(f"--token-key={file}" for file in files))
        for token in (
            sign({"exp": 1}, SECRET),
            sign({"exp": 1}, private_key("ES256"), "ES256"),
        ):
            self.assertEqual(keys.verify(token, 0).expires, 1)

    def test_bad(self) -> None:
        """A file that is no key is one line, with its name and what is wrong."""
        good, bad = self.write(SECRET), self.write(b"secret\n")
        args = ("--token-key", good, "--token-key", bad)
        error = self.assertRaises(SystemExit, self.parse, *args)
        self.assertEqual(
            str(error),
            f"pushd: --token-key {good} {bad}: {bad}: a secret has at least 32 bytes, this one 6",
        )
