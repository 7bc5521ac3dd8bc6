"""TLS around a client that speaks in the plain."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from threading import Thread


def through_tls(raw: socket.socket, context: ssl.SSLContext, name: str) -> socket.socket:
    """Give a socket on which to say in the plain what goes over another in TLS.

    The client of ``websockets`` reads in a thread of its own while others write, and Python's
    ``ssl`` lets both into OpenSSL at once, which that can't take: now and then the connection ended
    by it, or the process. Here one thread does both.

    :param name: of the server, as the certificate has it.
    """
    near, far = socket.socketpair()
    raw.setblocking(False)
    tunnel = _dig(far, raw, context, name)
    Thread(target=asyncio.run, args=(tunnel,), daemon=True).start()
    return near


async def _dig(far: socket.socket, raw: socket.socket, context: ssl.SSLContext, name: str) -> None:
    reader, writer = await asyncio.open_connection(sock=far)
    try:
        tls_reader, tls_writer = await asyncio.open_connection(
            sock=raw, ssl=context, server_hostname=name
        )
    except OSError:  # The client sees that there is nobody.
        writer.close()
        return
    await asyncio.gather(_pump(reader, tls_writer), _pump(tls_reader, writer))
    writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand on what comes, and the end; what nobody takes any more is dropped."""
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
