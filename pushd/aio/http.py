"""HTTP requests to a pushd with httpx, and event streams."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import httpx

from pushd.client.client import EventReader
from pushd.client.http import read_refusal, split_url, unix_path
from pushd.errors import PushdError, Unreachable

# Returns the headers of a request that hold the token.
Authorize = Callable[[], Awaitable[dict[str, str]]]

# Seconds after which a silent event stream is given up as dead: pushd sends a comment every 25.
_SILENCE = 45.0


class AsyncHttp:
    """Makes requests to one port of a pushd, over connections that are kept for the next request.

    :param url: such as ``http://127.0.0.1:8081``. A path in it is put before all other paths. For a
        port on a Unix socket ``unix:`` and its path.
    :param authorize: returns the headers that hold the token.
    :param timeout: seconds that each step of a request may take.
    :param context: how TLS is used; None for the certificates of the system.

    Raises ValueError if the URL is not valid.
    """

    def __init__(
        self, url: str, *, authorize: Authorize, timeout: float, context: ssl.SSLContext | None
    ) -> None:
        #: The path of the Unix socket to connect to; None over TCP.
        self.socket_path = unix_path(url)
        #: The URL as it was given, for errors.
        self.name = url
        parts = split_url(url if self.socket_path is None else "http://localhost")
        if context is None and parts.scheme == "https":
            context = ssl.create_default_context()
        #: The URL before the path of each request.
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        #: How TLS is used; None without TLS.
        self.context = context
        self._authorize = authorize
        self._timeout = timeout
        # No proxy of the environment: pushd is on this machine, or in the same network.
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                verify=False if context is None else context, uds=self.socket_path, trust_env=False
            ),
            timeout=timeout,
            trust_env=False,
        )

    async def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Make a request, and return the JSON of the response; None if its body is empty.

        Raises Refused if the status is not 2xx, and Unreachable if pushd does not respond.
        """
        target = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        all_headers = {**await self._authorize(), **(headers or {})}
        with self._translated():
            response = await self._client.request(method, target, content=body, headers=all_headers)
        if not response.is_success:
            raise _refusal(response)
        try:
            return response.json() if response.content else None
        except ValueError:
            raise self.not_pushd() from None

    async def stream(self, path: str) -> AsyncGenerator[tuple[str, str, str], None]:
        """Request an event stream, and yield the name, id and data of each event until it ends."""
        headers = {**await self._authorize(), "Accept": "text/event-stream"}
        timeout = httpx.Timeout(self._timeout, read=_SILENCE)
        request = self._client.build_request(
            "GET", f"{self.url}{path}", headers=headers, timeout=timeout
        )
        with self._translated():
            response = await self._client.send(request, stream=True)
        try:
            if not response.is_success:
                with self._translated():
                    await response.aread()
                raise _refusal(response)
            if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                raise self.not_pushd()
            reader, rest = EventReader(), b""
            with self._translated():
                async for chunk in response.aiter_bytes():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        complete = reader.read_line(line)
                        if complete is not None:
                            yield complete
        finally:
            await response.aclose()

    def not_pushd(self) -> Unreachable:
        """Return the error for a response that pushd does not send."""
        return Unreachable(f"{self.name} does not respond as pushd does")

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise pushd's exceptions in place of httpx's."""
        try:
            yield
        except httpx.TimeoutException:
            raise Unreachable(f"{self.name} does not respond in time") from None
        except (httpx.LocalProtocolError, UnicodeEncodeError) as error:
            raise PushdError(str(error)) from None
        except (httpx.HTTPError, httpx.StreamError, UnicodeDecodeError) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{self.name} does not respond: {reason}") from None


def _refusal(response: httpx.Response) -> PushdError:
    wait = response.headers.get("Retry-After")
    return read_refusal(response.status_code, response.reason_phrase, wait, response.content)
