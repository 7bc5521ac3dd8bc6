"""Static files: what is served and what is not, ranges, conditional requests, and pace."""

from __future__ import annotations

import mimetypes
import os
import shutil
import socket
import tempfile
from email.utils import formatdate
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.http.static import StaticFiles
from pushd.testing import Answer, Daemon
from tests.support.peer import Peer, request

DIGITS = b"0123456789"

# Modification time of the files, a whole second, as HTTP dates have no fractions.
MOMENT = 1_700_000_000


class FilesTestCase(SynchronousTestCase):
    """A daemon with a folder of files, and a secret beside the folder."""

    def setUp(self) -> None:
        """Make the folder, and start the daemon."""
        self.outside = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.outside)
        (self.outside / "secret.txt").write_text("secret")
        self.folder = self.outside / "web"
        self.folder.mkdir()
        self.write("digits.txt", DIGITS)
        self.daemon = Daemon(web=self.folder)

    def write(self, name: str, content: bytes = b"something") -> Path:
        """Write a file with a modification time in the past."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, (MOMENT, MOMENT))
        return file

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET with headers such as ``If_Range="x"``."""
        return self.ask("GET", path, **headers)

    def ask(self, method: str, path: str, **headers: str) -> Answer:
        """Send a request and return the answer."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.daemon.request(method, path, fields)
        assert answer is not None, "there is no answer"
        return answer

    def assert_nothing_at(self, *paths: str) -> None:
        """Assert that these paths give 404, and disclose nothing."""
        for path in paths:
            answer = self.get(path)
            self.assertEqual(answer.status, 404, path)
            self.assertIn("There is nothing at this address.", answer.text)
            self.assertNotIn("secret", answer.text)


class TypeTests(FilesTestCase):
    """Types, methods, and whole files."""

    def test_types(self) -> None:
        """A file has the type of its suffix, and text is declared as UTF-8."""
        for name, kind in {
            "a.html": "text/html; charset=utf-8",
            "a.css": "text/css; charset=utf-8",
            "a.js": "text/javascript; charset=utf-8",
            "a.mjs": "text/javascript; charset=utf-8",
            "a.svg": "image/svg+xml; charset=utf-8",
            "a.txt": "text/plain; charset=utf-8",
            "a.json": "application/json; charset=utf-8",
            "A.HTML": "text/html; charset=utf-8",
            "a.csv": "text/csv; charset=utf-8",
            "a.wasm": "application/wasm",
            "a.png": "image/png",
            "a.pushd": "application/octet-stream",
            "a": "application/octet-stream",
        }.items():
            self.write(name)
            answer = self.get(f"/{name}")
            self.assertEqual((answer.status, answer.body), (200, b"something"), name)
            self.assertEqual(answer.headers.get_all("Content-Type"), [kind], name)

    def test_types_of_the_machine(self) -> None:
        """Types that browsers depend on do not depend on the machine's table of types."""
        self.patch(mimetypes, "guess_type", lambda name: ("text/plain", None))
        for name, kind in {
            "a.html": "text/html",
            "a.css": "text/css",
            "a.js": "text/javascript",
            "a.mjs": "text/javascript",
            "a.svg": "image/svg+xml",
            "a.json": "application/json",
            "a.wasm": "application/wasm",
        }.items():
            self.write(name)
            self.assertEqual(self.get(f"/{name}").headers.get_content_type(), kind)
        self.patch(mimetypes, "guess_type", lambda name: ("image/png", None))
        self.write("a.txt")
        self.assertEqual(self.get("/a.txt").headers["Content-Type"], "text/plain; charset=utf-8")

    def test_packed(self) -> None:
        """A compressed file is sent as it is, not with the type of its contents."""
        for name in ("a.html.gz", "a.txt.bz2", "a.tar.gz", "a.svgz"):
            self.write(name)
            answer = self.get(f"/{name}")
            self.assertEqual(answer.headers["Content-Type"], "application/octet-stream", name)
            self.assertNotIn("Content-Encoding", answer.headers)

    def test_client(self) -> None:
        """The shipped client is served: its start page at /, each file by its name."""
        start = self.get("/")
        self.assertEqual(start.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertIn("pushd", start.text)
        self.assertEqual(self.get("/index.html").body, start.body)
        self.assertEqual(
            self.get("/pushd.js").headers["Content-Type"], "text/javascript; charset=utf-8"
        )

    def test_own_folder_first(self) -> None:
        """A file in the folder of --web replaces the shipped one of the same name."""
        shipped = self.get("/pushd.css").body
        self.write("pushd.css", b"/* ours */")
        self.assertEqual(self.get("/pushd.css").body, b"/* ours */")
        self.assertNotEqual(shipped, b"/* ours */")

    def test_head(self) -> None:
        """HEAD gets the headers of GET, and no body."""
        head, get = self.ask("HEAD", "/digits.txt"), self.get("/digits.txt")
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(get.body, DIGITS)
        for name in ("Content-Length", "Content-Type", "ETag", "Last-Modified", "Cache-Control"):
            self.assertIsNotNone(get.headers[name])
            self.assertEqual(head.headers[name], get.headers[name])

    def test_head_is_without_body_on_the_wire(self) -> None:
        """No byte of the file follows the answer to a HEAD."""
        peer = Peer(self.daemon)
        peer.send(request("HEAD /digits.txt HTTP/1.1", "Host: localhost:8080"))
        self.assertIn("Content-Length: 10", peer.head)
        self.assertEqual(peer.body, b"")

    def test_other_methods(self) -> None:
        """Any method but GET, HEAD and OPTIONS gets 405 with the allowed ones."""
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"):
            answer = self.ask(method, "/digits.txt")
            self.assertEqual(answer.status, 405, method)
            self.assertEqual(answer.headers["Allow"], "GET, HEAD, OPTIONS")
            self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")
            self.assertEqual(answer.text, "use GET or HEAD for a file\n")

    def test_options(self) -> None:
        """OPTIONS, with which HAProxy checks whether a server is well, gets the allowed methods."""
        answer = self.ask("OPTIONS", "/digits.txt")
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(answer.headers["Allow"], "GET, HEAD, OPTIONS")
        self.assertNotIn("Content-Type", answer.headers)
        self.assertEqual(self.ask("OPTIONS", "/nothing").status, 404)

    def test_keep_alive(self) -> None:
        """The connection stays open after a file."""
        peer = Peer(self.daemon)
        for _ in range(2):
            peer.send(request("GET /digits.txt HTTP/1.1", "Host: localhost:8080"))
        self.assertEqual(peer.received.count(DIGITS), 2)
        self.assertIsNone(peer.lost)

    def test_cache(self) -> None:
        """A browser must check each time whether it has the newest version."""
        self.assertEqual(self.get("/digits.txt").headers["Cache-Control"], "no-cache")


class PathTests(FilesTestCase):
    """Paths that name a file, and paths that must not."""

    def test_folder(self) -> None:
        """A folder with a slash at the end is its index.html; without it is 404."""
        self.write("sub/index.html", b"inside")
        self.assertEqual(self.get("/sub/").body, b"inside")
        self.assertEqual(self.get("/sub/index.html").body, b"inside")
        self.assert_nothing_at("/sub", "/sub//", "/sub/index.html/", "//sub/", "/sub//index.html")

    def test_no_listing(self) -> None:
        """A folder without index.html is 404: there are no listings."""
        self.write("bare/known.txt")
        (self.folder / "page.html").mkdir()
        self.assert_nothing_at("/bare/", "/bare", "/page.html", "/page.html/")

    def test_names(self) -> None:
        """Names are percent-decoded, and case-sensitive."""
        self.write("café au lait.txt")
        self.assertEqual(self.get("/caf%C3%A9%20au%20lait.txt").status, 200)
        self.assertEqual(self.get("/%64igits.txt?x=/../y").body, DIGITS)
        self.assert_nothing_at("/DIGITS.txt", "/digits.txt%20", "/digits")

    def test_not_there(self) -> None:
        """A path without a file gets our 404 page, however long it is."""
        self.assert_nothing_at("/nothing", f"/{'n' * 300}", f"/{'n/' * 3000}", "/digits.txt/")

    def test_dotfiles(self) -> None:
        """A file or folder whose name starts with a dot is not served."""
        for name in (".secret", "sub/.secret", ".git/config", "...txt"):
            self.write(name)
        self.assert_nothing_at(
            "/.secret", "/%2esecret", "/sub/.secret", "/.git/config", "/.git/", "/...txt", "/."
        )

    def test_upwards(self) -> None:
        """Two dots in any encoding do not lead out of the folder."""
        self.write("sub/index.html")
        for dots in ("..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "%c0%ae%c0%ae", "%uff0e%uff0e"):
            self.assert_nothing_at(
                f"/{dots}/secret.txt",
                f"/sub/{dots}/{dots}/secret.txt",
                f"/digits.txt/{dots}/{dots}/secret.txt",
                f"//{dots}/secret.txt",
                f"/{dots}%2fsecret.txt",
                f"/sub%2F{dots}%2F{dots}%2Fsecret.txt",
                f"/{dots}\\secret.txt",
                f"/{dots}%5csecret.txt",
                f"/{dots}",
                f"/{dots}/",
            )

    def test_absolute(self) -> None:
        """An absolute path within a path does not start at the root of the file system."""
        path = str(self.outside / "secret.txt")
        self.assert_nothing_at(f"/{path}", f"/%2f{path}", f"/{path.replace('/', '%2f')}")

    def test_odd_bytes(self) -> None:
        """A path with NUL, a backslash or invalid UTF-8 names no file."""
        (self.folder / "back\\slash.txt").write_text("x")
        (self.folder / os.fsdecode(b"\xff.txt")).write_text("x")
        self.assert_nothing_at(
            "/%00",
            "/digits.txt%00",
            "/digits.txt%00.html",
            "/back\\slash.txt",
            "/back%5Cslash.txt",
            "/%ff.txt",
            "/%ED%B3%BF.txt",
            "/%",
            "/%zz",
        )

    def test_links(self) -> None:
        """A symbolic link is followed within the folder, and not out of it."""
        self.write("sub/index.html", b"inside")
        (self.folder / "inside.txt").symlink_to(self.folder / "digits.txt")
        (self.folder / "indoors").symlink_to("sub")
        (self.folder / "outside.txt").symlink_to(self.outside / "secret.txt")
        (self.folder / "up.txt").symlink_to("../secret.txt")
        (self.folder / "out").symlink_to(self.outside)
        (self.folder / "round").symlink_to("round")
        (self.folder / "dangling").symlink_to("nowhere")
        # The name of this folder begins with that of the served one.
        (self.outside / "web-private").mkdir()
        (self.outside / "web-private/secret.txt").write_text("secret")
        (self.folder / "alike.txt").symlink_to("../web-private/secret.txt")
        self.assertEqual(self.get("/inside.txt").body, DIGITS)
        self.assertEqual(self.get("/indoors/").body, b"inside")
        self.assert_nothing_at(
            "/outside.txt",
            "/up.txt",
            "/out/secret.txt",
            "/out/",
            "/round",
            "/round/x",
            "/dangling",
            "/alike.txt",
        )

    def test_folder_behind_link(self) -> None:
        """The served folder itself may be a symbolic link."""
        link = self.outside / "link"
        link.symlink_to(self.folder)
        answer = Daemon(web=link).get("/digits.txt")
        assert answer is not None
        self.assertEqual(answer.body, DIGITS)

    def test_devices(self) -> None:
        """Only regular files are opened: opening a FIFO would block the daemon."""
        os.mkfifo(self.folder / "fifo.txt")
        (self.folder / "null.txt").symlink_to("/dev/null")
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(str(self.folder / "s"))
        self.assert_nothing_at("/fifo.txt", "/null.txt", "/s")

    def test_missing_folder(self) -> None:
        """If one folder does not exist, the files of the others are served."""
        files = StaticFiles([self.outside / "gone", self.folder])
        self.assertIsNotNone(files.find("/digits.txt"))
        self.assertIsNone(files.find("/nothing.txt"))


class SlowReaderTests(FilesTestCase):
    """Clients that do not read a file as fast as it could be sent."""

    SIZE = 1_000_000

    def setUp(self) -> None:
        """Let more clients than may hold a file ask for a large one, and read none of it."""
        super().setUp()
        self.content = os.urandom(self.SIZE)
        self.file = self.write("large.bin", self.content)
        self.peers = [Peer(self.daemon) for _ in range(20)]
        for peer in self.peers:
            peer.stall()
            peer.send(request("GET /large.bin HTTP/1.1", "Host: localhost"))

    def count_open(self) -> int:
        """Return how many descriptors of the file are open."""
        links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return sum(os.path.realpath(link).startswith(str(self.file)) for link in links)

    def test_bounded(self) -> None:
        """Few of them hold a descriptor, and all get the file."""
        self.assertEqual(self.count_open(), 16)
        for peer in reversed(self.peers):
            peer.resume()
            self.assertEqual(peer.body, self.content)
        self.assertEqual(self.count_open(), 0)

    def test_leaving(self) -> None:
        """One that leaves gives its place to another."""
        self.peers[0].vanish()
        self.assertEqual(self.count_open(), 15)
        self.peers[-1].vanish()
        self.assertEqual(self.count_open(), 15)
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(request("GET /large.bin HTTP/1.1", "Host: localhost"))
        self.assertEqual(self.count_open(), 16)
        for peer in self.peers:
            peer.vanish()

    def test_changed(self) -> None:
        """A file that was replaced or removed is not continued, except for those that hold it."""
        new = self.write("new.bin", os.urandom(self.SIZE))
        new.replace(self.file)
        for at, peer in ((0, self.peers[0]), (-1, self.peers[-1])):
            peer.resume()
            self.assertEqual(peer.body == self.content, at == 0)
            self.assertEqual(peer.lost is None, at == 0)
            self.assertTrue(self.content.startswith(peer.body))
        self.file.unlink()
        self.peers[-2].resume()
        self.assertIsNotNone(self.peers[-2].lost)
        os.mkfifo(self.file)
        self.peers[-3].resume()
        self.assertIsNotNone(self.peers[-3].lost)

    def test_all_written(self) -> None:
        """A client that is slow to take the last part holds no descriptor."""
        small = self.write("small.bin", bytes(70_000))
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(request("GET /small.bin HTTP/1.1", "Host: localhost"))
        links = [os.path.realpath(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")]
        self.assertNotIn(str(small), links)
        peer.resume()
        self.assertEqual(peer.body, bytes(70_000))


class RangeTests(FilesTestCase):
    """The Range header (RFC 9110 §14.2)."""

    def test_one_range(self) -> None:
        """One range gets 206 with its bytes and their position."""
        for asked, body, where in (
            ("bytes=2-4", b"234", "2-4"),
            ("bytes=0-0", b"0", "0-0"),
            ("bytes=9-9", b"9", "9-9"),
            ("bytes=7-", b"789", "7-9"),
            ("bytes=0-", DIGITS, "0-9"),
            ("bytes=-3", b"789", "7-9"),
            ("bytes=-10", DIGITS, "0-9"),
            ("bytes=8-10", b"89", "8-9"),
            ("bytes=8-99999999999999999", b"89", "8-9"),
        ):
            answer = self.get("/digits.txt", Range=asked)
            self.assertEqual((answer.status, answer.body), (206, body), asked)
            self.assertEqual(answer.headers["Content-Range"], f"bytes {where}/10")
            self.assertEqual(answer.headers["Content-Length"], str(len(body)))
            self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")

    def test_not_satisfiable(self) -> None:
        """A range behind the end of the file is 416 with the file's size."""
        for asked in ("bytes=10-", "bytes=10-12", "bytes=99-100", "bytes=-0"):
            answer = self.get("/digits.txt", Range=asked)
            self.assertEqual((answer.status, answer.body), (416, b""), asked)
            self.assertEqual(answer.headers["Content-Range"], "bytes */10")

    def test_long_suffix(self) -> None:
        """A suffix longer than the file gets the whole file."""
        for asked in ("bytes=-11", "bytes=-999999999999999999"):
            self.assert_whole(asked)
        self.write("empty.txt", b"")
        answer = self.get("/empty.txt", Range="bytes=-1")
        self.assertEqual((answer.status, answer.body), (200, b""))

    def test_not_plain(self) -> None:
        """A Range that is not one plain range gets the whole file."""
        for asked in (
            "bytes=0-1,3-4",
            "bytes=0-1, ",
            "bytes=,0-1",
            "bytes=" + ",".join(f"{n}-{n}" for n in range(700)),
            "bytes=4-2",
            "bytes=-",
            "bytes=",
            "bytes",
            "bytes=a-b",
            "bytes=1-b",
            "bytes=--1",
            "bytes=-1-2",
            "bytes=+1-2",
            "bytes=1_0-",
            "bytes= 1-2",
            "bytes=1 -2",
            "bytes =1-2",
            "BYTES=1-2",
            "chars=1-2",
            "bytes=0x1-2",
            "bytes=\u00b2-",
            "bytes=\u0663-",
            "bytes=é",
            "bytes=1-2é",
            "bytes=1000000000000000000-",
            f"bytes={'9' * 5000}-",
            f"bytes=0-{'9' * 5000}",
            f"bytes=-{'9' * 5000}",
            "",
        ):
            self.assert_whole(asked)

    def test_twice(self) -> None:
        """Two Range headers get the whole file."""
        peer = Peer(self.daemon)
        lines = ("Host: localhost:8080", "Range: bytes=1-2", "Range: bytes=3-4")
        peer.send(request("GET /digits.txt HTTP/1.1", *lines))
        self.assertEqual(peer.body, DIGITS)

    def test_if_range(self) -> None:
        """With If-Range the whole file is sent, which is always correct."""
        tag = self.get("/digits.txt").headers["ETag"]
        for condition in (tag, '"other"', formatdate(MOMENT, usegmt=True), "nonsense"):
            answer = self.get("/digits.txt", Range="bytes=1-2", If_Range=condition)
            self.assertEqual((answer.status, answer.body), (200, DIGITS))

    def test_head(self) -> None:
        """HEAD ignores a Range."""
        answer = self.ask("HEAD", "/digits.txt", Range="bytes=1-2")
        self.assertEqual((answer.status, answer.headers["Content-Length"]), (200, "10"))
        self.assertEqual(answer.headers["Accept-Ranges"], "bytes")

    def assert_whole(self, asked: str) -> None:
        """Assert that a Range header has no effect."""
        answer = self.get("/digits.txt", Range=asked)
        self.assertEqual((answer.status, answer.body), (200, DIGITS), asked)
        self.assertNotIn("Content-Range", answer.headers)


class ConditionTests(FilesTestCase):
    """If-None-Match and If-Modified-Since (RFC 9110 §13.1)."""

    def test_tag(self) -> None:
        """The ETag is quoted and strong, and changes with the file."""
        first = self.get("/digits.txt").headers["ETag"]
        self.assertRegex(first, r'^"[^"]+"$')
        self.assertEqual(self.get("/digits.txt").headers["ETag"], first)
        file = self.write("digits.txt", b"9876543210")
        os.utime(file, (MOMENT + 1, MOMENT + 1))
        second = self.get("/digits.txt").headers["ETag"]
        self.write("digits.txt", b"98765432100")
        third = self.get("/digits.txt").headers["ETag"]
        self.assertEqual(len({first, second, third}), 3)

    def test_if_none_match(self) -> None:
        """If-None-Match with this version gets 304: alone, in a list, weak, or as ``*``."""
        tag = self.get("/digits.txt").headers["ETag"]
        for tags in (tag, f"W/{tag}", f'"a", {tag}', f'{tag}, "a"', f'"a",W/{tag},"b"', "*"):
            self.assert_known(If_None_Match=tags)

    def test_if_none_match_other(self) -> None:
        """If-None-Match with another version, or malformed, gets the file."""
        tag = self.get("/digits.txt").headers["ETag"]
        for tags in ('"a"', '"a", "b"', tag.strip('"'), tag[:-1], tag.replace("-", "_"), '"*"', ""):
            self.assert_sent(If_None_Match=tags)

    def test_if_none_match_twice(self) -> None:
        """If-None-Match may occur more than once."""
        tag = self.get("/digits.txt").headers["ETag"]
        peer = Peer(self.daemon)
        lines = ("Host: localhost:8080", f"If-None-Match: {tag}", 'If-None-Match: "a"')
        peer.send(request("GET /digits.txt HTTP/1.1", *lines))
        self.assertIn(" 304 ", peer.head)

    def test_if_modified_since(self) -> None:
        """If-Modified-Since gets 304 if the file is not newer; the date may have any HTTP form."""
        self.assertEqual(
            self.get("/digits.txt").headers["Last-Modified"], "Tue, 14 Nov 2023 22:13:20 GMT"
        )
        for date in (
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:21 GMT",
            "Tuesday, 14-Nov-23 22:13:20 GMT",
            "Tue Nov 14 22:13:20 2023",
            "Tue, 14 Nov 2023 22:13:20 GMT; length=10",
        ):
            self.assert_known(If_Modified_Since=date)
        self.assert_sent(If_Modified_Since="Tue, 14 Nov 2023 22:13:19 GMT")

    def test_tag_before_date(self) -> None:
        """With If-None-Match, If-Modified-Since is ignored."""
        tag = self.get("/digits.txt").headers["ETag"]
        past, future = formatdate(MOMENT - 9, usegmt=True), formatdate(MOMENT + 9, usegmt=True)
        self.assert_known(If_None_Match=tag, If_Modified_Since=past)
        self.assert_sent(If_None_Match='"a"', If_Modified_Since=future)

    def test_malformed_dates(self) -> None:
        """A malformed date is ignored."""
        for date in (
            "",
            ";",
            "; length=10",
            "never",
            "0",
            "-1",
            "Tue, 14 Nov 2023",
            "Tue, 14 Foo 2023 22:13:20 GMT",
            "Tue, 14 Nov 1023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13 GMT",
            "Tue, 14 Nov 2023 x:y:z GMT",
            "Tue, 14-Nov 22:13:20 GMT",
            "Tue Nov x 22:13:20 2023",
            f"Tue, 14 Nov {'9' * 5000} 22:13:20 GMT",
            "mañana",
            ", , , , ,",
        ):
            self.assert_sent(If_Modified_Since=date)

    def test_head(self) -> None:
        """HEAD gets 304 as GET does."""
        tag = self.get("/digits.txt").headers["ETag"]
        self.assertEqual(self.ask("HEAD", "/digits.txt", If_None_Match=tag).status, 304)
        self.assertEqual(self.ask("HEAD", "/digits.txt", If_None_Match='"a" *').status, 200)

    def test_range(self) -> None:
        """If-None-Match comes before Range."""
        self.assert_known(If_None_Match="*", Range="bytes=1-2")

    def assert_known(self, **headers: str) -> None:
        """Assert that the answer is a 304 with the headers that it must have."""
        answer = self.get("/digits.txt", **headers)
        self.assertEqual((answer.status, answer.body), (304, b""), headers)
        # A browser updates its stored answer with these (RFC 9110 §15.4.5, §8.6).
        self.assertIn("ETag", answer.headers)
        self.assertEqual(answer.headers["Cache-Control"], "no-cache")
        self.assertNotIn("Content-Length", answer.headers)
        self.assertNotIn("Content-Type", answer.headers)

    def assert_sent(self, **headers: str) -> None:
        """Assert that the file is sent."""
        answer = self.get("/digits.txt", **headers)
        self.assertEqual((answer.status, answer.body), (200, DIGITS), headers)


class PaceTests(FilesTestCase):
    """A large file, sent as fast as the client reads."""

    def setUp(self) -> None:
        """Add a file that is larger than any buffer."""
        super().setUp()
        self.big = bytes(range(256)) * 8192
        self.file = self.write("big.bin", self.big)
        self.peer = Peer(self.daemon)

    def test_whole(self) -> None:
        """A large file arrives completely, and is closed."""
        self.fetch()
        self.assertEqual(self.peer.body, self.big)
        self.assertEqual(self.open_files(), 0)

    def test_range(self) -> None:
        """A large range arrives completely, and the file is closed."""
        self.fetch("Range: bytes=1000-1999999")
        self.assertEqual(self.peer.body, self.big[1000:2_000_000])
        self.assertEqual(self.open_files(), 0)

    def test_reader_stalls(self) -> None:
        """If the client stops reading, little is kept in memory, and it can go on later."""
        self.peer.stall()
        self.fetch()
        self.assertLess(self.peer.server.unsent, 1 << 18)
        self.assertEqual(self.open_files(), 1)
        self.peer.resume()
        self.assertEqual(self.peer.body, self.big)
        self.assertEqual(self.open_files(), 0)

    def test_client_leaves(self) -> None:
        """If the client leaves, the file is closed."""
        self.peer.stall()
        self.fetch()
        self.assertEqual(self.open_files(), 1)
        self.peer.vanish()
        self.assertEqual(self.open_files(), 0)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_file_shrinks(self) -> None:
        """If the file becomes shorter than announced, the connection is closed."""
        self.peer.stall()
        self.fetch()
        self.file.write_bytes(b"")
        self.peer.resume()
        self.assertLess(len(self.peer.body), len(self.big))
        self.assertIsNotNone(self.peer.lost)
        self.assertEqual(self.open_files(), 0)

    def test_file_grows(self) -> None:
        """If the file becomes longer, only the announced bytes are sent."""
        self.peer.stall()
        self.fetch()
        with self.file.open("ab") as file:
            file.write(b"more")
        self.peer.resume()
        self.assertEqual(self.peer.body, self.big)
        self.assertIsNone(self.peer.lost)

    def test_no_file_is_left_open(self) -> None:
        """Answers without a body leave no open file."""
        tag = self.get("/big.bin").headers["ETag"]
        self.ask("HEAD", "/big.bin")
        self.get("/big.bin", If_None_Match=tag)
        self.get("/big.bin", If_Modified_Since=formatdate(MOMENT, usegmt=True))
        self.get("/big.bin", Range="bytes=9999999-")
        self.assertEqual(self.open_files(), 0)

    def fetch(self, *lines: str) -> None:
        """Send a GET for the large file."""
        self.peer.send(request("GET /big.bin HTTP/1.1", "Host: localhost:8080", *lines))

    def open_files(self) -> int:
        """Return how many descriptors of this process are open on the large file."""
        links = []
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                links.append(descriptor.readlink())
            except OSError:
                continue  # The descriptor of this listing.
        return links.count(self.file.resolve())
