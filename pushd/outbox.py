"""What a transport has not sent yet."""

from __future__ import annotations

from typing import Any

from twisted.protocols.policies import ProtocolWrapper


def unsent(transport: Any) -> int:
    """How many bytes have been written to a transport that the kernel has not taken.

    Twisted tells a producer only that it is too many; the number is in attributes of its own
    transports, which are read here and nowhere else. A transport without them counts as empty.
    """
    if isinstance(transport, ProtocolWrapper):  # TLS, whose own buffer waits for the peer
        waiting: list[bytes] = getattr(transport, "_appSendBuffer", [])
        return unsent(transport.transport) + sum(map(len, waiting))
    try:
        size: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    except AttributeError:
        size = getattr(transport, "unsent", 0)
    return size
