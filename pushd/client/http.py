"""HTTP requests to a pushd, and the exceptions for responses that are not a success."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import AF_UNIX, SOCK_STREAM, socket
from urllib.parse import SplitResult, urlencode, urlsplit

from pushd.errors import PushdError, Refused, Unreachable

# Makes a connection that is not open yet, from a scheme, a host, a port and a timeout in seconds.
# With the scheme "unix", the host is the path of a Unix socket.
Connect = Callable[[str, str, int | None, float], HTTPConnection]

# The longest time that a server can have us wait, in seconds: it may send any number.
MAX_RETRY_AFTER = 300.0

# How the URL of a Unix socket begins.
_UNIX = "unix"

#: What stands for the reason of a refusal that has none.
NO_REASON = "the server gave no reason"

# A longer text of an error response is not shown: it is a page for people.
_MAX_ERROR = 200


def connect(scheme: str, host: str, port: int | None, timeout: float) -> HTTPConnection:
    """Make a connection with Python's standard library."""
    if scheme == _UNIX:
        return _UnixConnection(host, timeout)
    kind = HTTPSConnection if scheme == "https" else HTTPConnection
    return kind(host, port, timeout=timeout)


class _UnixConnection(HTTPConnection):
    """A connection to a Unix socket; its requests are for the Host ``localhost``."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._socket_path = path

    def connect(self) -> None:
        """Connect; ``close`` closes the socket even if that fails."""
        self.sock = socket(AF_UNIX, SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


class HttpClient:
    """Makes requests to one port of a pushd, with a new connection for each.

    :param url: such as ``http://127.0.0.1:8081``. A path in it is put before all other paths. For a
        Unix socket ``unix:`` and its path, such as ``unix:/run/pushd/control.sock``.
    :param token: token to send with each request; blanks and line ends around it do not count.
    :param connect: makes the connections.

    Raises ValueError if the URL is not valid.
    """

    def __init__(self, url: str, *, token: str | None, connect: Connect) -> None:
        self._url = url
        self._port: int | None = None
        if socket_path := unix_path(url):
            self._scheme, self._host, self._path = _UNIX, socket_path, ""
        else:
            parts = split_url(url)
            assert parts.hostname is not None  # Checked.
            self._scheme, self._host, self._port = parts.scheme, parts.hostname, parts.port
            self._path = parts.path.rstrip("/")
        # One that was read from a file or an answer often has a line end.
        self._token = token and token.strip()
        self._connect = connect

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float,
    ) -> Iterator[HTTPResponse]:
        """Make a request, and give the response, whose body has not been read yet.

        Raises Refused if the status is not 2xx. While the body is read, errors of the network
        become Unreachable, and so does a ValueError, because pushd sends no such body.
        """
        with self.connection(timeout) as connection:
            self.send(connection, method, path, query, body, headers)
            yield self.receive(connection)

    @contextmanager
    def connection(self, timeout: float) -> Iterator[HTTPConnection]:
        """Give a connection that is not open yet, and close it at the end.

        Errors of the network become Unreachable, and so does a ValueError, because pushd sends
        nothing that raises one.

        :param timeout: seconds that each step may take.
        """
        connection = self._connect(self._scheme, self._host, self._port, timeout)
        try:
            yield connection
        except ValueError:
            raise self.not_pushd() from None
        except (OSError, HTTPException) as error:
            raise Unreachable(self._explain(error)) from None
        finally:
            connection.close()

    def send(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a request. Raises PushdError if it cannot be written, for a wrong token."""
        target = f"{self._path}{path}" + (f"?{urlencode(query)}" if query else "")
        authorization = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            connection.request(method, target, body, {**authorization, **(headers or {})})
        except ValueError as error:
            raise PushdError(str(error)) from None

    def receive(self, connection: HTTPConnection) -> HTTPResponse:
        """Return the response, whose body has not been read. Raises Refused if it is not 2xx."""
        response = connection.getresponse()
        if 200 <= response.status < 300:
            return response
        wait = response.getheader("Retry-After")
        raise read_refusal(response.status, response.reason, wait, response.read())

    def not_pushd(self) -> Unreachable:
        """Return the error for a response that pushd does not send."""
        return Unreachable(f"{self._url} does not respond as pushd does")

    def _explain(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"{self._url} does not respond in time"
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"{self._url} does not respond: {reason}"


def unix_path(url: str) -> str | None:
    """Return the path of the Unix socket that a URL is for, or None for other URLs."""
    path = url.removeprefix(f"{_UNIX}:").removeprefix("//")
    return path if url.startswith(f"{_UNIX}:") and path.startswith("/") else None


def split_url(url: str) -> SplitResult:
    """Return the parts of a pushd's URL. Raises ValueError if it is not valid."""
    rule = f"the URL must be like http://127.0.0.1:8081; got {url!r}"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError
    except ValueError as error:
        raise ValueError(f"{rule} ({error})") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(rule)
    return parts


def read_refusal(status: int, phrase: str, wait: str | None, body: bytes) -> Refused:
    """Return the exception for a response whose status is not 2xx.

    :param phrase: the text beside the status.
    :param wait: the header ``Retry-After``.
    """
    text = body.decode(errors="replace")
    retry_after = None
    if wait and wait.isascii() and wait.isdigit():
        retry_after = min(float(wait), MAX_RETRY_AFTER)
    try:
        value = json.loads(text)
        if "status" in value:
            # Of a health check.
            return Refused(status, f"{value['status']}: {value['reason']}", None, retry_after)
        error, where = str(value["error"]), value.get("where")
    except (ValueError, LookupError, TypeError, AttributeError):
        # Not from pushd itself, but from a view or a proxy.
        short = " ".join(text.split())
        error, where = short if 0 < len(short) < _MAX_ERROR else phrase, None
    return Refused(status, error or NO_REASON, where, retry_after)
