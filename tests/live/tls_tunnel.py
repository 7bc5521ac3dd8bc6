"""A TLS tunnel for a client that speaks plain TCP."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from threading import Thread


def wrap_in_tls(raw: socket.socket, context: ssl.SSLContext, name: str) -> socket.socket:
    """Return a socket whose data is sent over another one with TLS.

    The client of ``websockets`` reads and writes in different threads. Python's ``ssl`` calls
    OpenSSL from both at once, which now and then ended the connection, or the process. Here one
    thread does both.

    :param name: the server's name in its certificate.
    """
    near, far = socket.socketpair()
    raw.setblocking(False)
    tunnel = _run_tunnel(far, raw, context, name)
    Thread(target=asyncio.run, args=(tunnel,), daemon=True).start()
    return near


async def _run_tunnel(
    far: socket.socket, raw: socket.socket, context: ssl.SSLContext, name: str
) -> None:
    reader, writer = await asyncio.open_connection(sock=far)
    try:
        tls_reader, tls_writer = await asyncio.open_connection(
            sock=raw, ssl=context, server_hostname=name
        )
    except OSError:  # The client sees the end of its connection.
        writer.close()
        return
    await asyncio.gather(_pump(reader, tls_writer), _pump(tls_reader, writer))
    writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy data and the end of the stream; drop data that the other side does not accept."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            if not writer.is_closing():
                writer.write(data)
                with suppress(OSError):
                    await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:  # TLS can't be closed by half.
        writer.close()
