"""Negotiate permessage-deflate (RFC 7692), and decompress messages.

We keep no context for the messages that we send. A client keeps one unless it offers not to: some
clients ignore ``client_no_context_takeover`` where they have not offered it, and their second
message could not be decompressed. So the end of what a client has sent is kept for it, and no more:
4 KiB if the client lets us limit its window, as browsers do except Firefox and Safari, else 32 KiB.
"""

from __future__ import annotations

import zlib
from typing import Any

from autobahn.websocket.compress import (
    PerMessageDeflate,
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
)

from pushd.protocols.websocket.frames import MAX_WINDOW_BITS, MEMORY_LEVEL

# What a sender removes from the end of each compressed message (RFC 7692 §7.2.1).
_TAIL = b"\x00\x00\xff\xff"

# Parameters of an offer (RFC 7692 §7.1).
_NO_CONTEXT = "client_no_context_takeover"
_MAX_WINDOW = "client_max_window_bits"

# Not typed: Autobahn leaves this class untyped.
_AnyDeflate: Any = PerMessageDeflate


class WholeMessageDeflate(_AnyDeflate):
    """Decompresses a message once it has arrived as a whole.

    Autobahn would decompress each piece at once: with 1 KiB a client could make an unfinished
    message take 1 MiB, for as long as it likes.

    Between messages there is no decompressor: it would take 40 KiB from the first message on. The
    next message can be decompressed with the end of the earlier ones as a dictionary.
    """

    #: The end of the messages that the client has compressed, to which the next one may refer.
    #: Empty without context takeover.
    context = b""

    def start_decompress_message(self) -> None:
        """Do nothing: see ``inflate``."""

    def decompress_message_data(self, data: bytes, max_output_len: int | None = None) -> bytes:
        """Return a piece as it is."""
        return data

    def end_decompress_message(self) -> None:
        """Do nothing: see ``inflate``."""

    def inflate(self, message: bytes | bytearray, limit: int) -> bytes:
        """Return a whole message decompressed: its beginning, if it is longer than the limit.

        No more than one byte beyond the limit is decompressed. Raises zlib.error.
        """
        inflater = zlib.decompressobj(-self.client_max_window_bits, self.context)
        payload = inflater.decompress(message, limit + 1)
        if len(payload) <= limit:
            inflater.decompress(_TAIL)
        if not self.client_no_context_takeover:
            size = 1 << self.client_max_window_bits
            kept = self.context if len(payload) < size else b""
            self.context = (kept + payload[-size:])[-size:]
        return payload


def negotiate(offered: list[tuple[str, dict[str, Any]]]) -> PerMessageDeflateOfferAccept | None:
    """Accept the first offer of permessage-deflate that can be met; return None without one.

    An offer with unknown or invalid parameters is declined (RFC 7692 §5). A client gets to hear of
    nothing that it has not offered: neither ``client_no_context_takeover`` nor a limit of its
    window, to which it would not have to keep (§7.1.2.2).

    :param offered: the extensions that a client offers, with their parameters.
    """
    for extension, parameters in offered:
        if extension != PerMessageDeflateOffer.EXTENSION_NAME:
            continue
        try:
            offer = PerMessageDeflateOffer.parse(parameters)
        except Exception:  # Autobahn raises nothing more specific for an invalid parameter.
            continue
        return PerMessageDeflateOfferAccept(
            offer,
            # Autobahn's offer says that it is in any case.
            request_no_context_takeover=_NO_CONTEXT in parameters,
            request_max_window_bits=_client_window_bits(parameters),
            no_context_takeover=True,
            window_bits=min(MAX_WINDOW_BITS, offer.request_max_window_bits or MAX_WINDOW_BITS),
            mem_level=MEMORY_LEVEL,
        )
    return None


def _client_window_bits(parameters: dict[str, Any]) -> int:
    """Return what to limit a client's window to, as a power of two; 0 if it must not be limited."""
    if _MAX_WINDOW not in parameters:
        return 0
    # True if it is offered without a value. Autobahn has checked it.
    value = parameters[_MAX_WINDOW][0]
    return MAX_WINDOW_BITS if value is True else min(MAX_WINDOW_BITS, int(value))


def decompressor(accepted: PerMessageDeflateOfferAccept) -> Any:
    """Return what is set in a connection that compresses messages."""
    return WholeMessageDeflate.create_from_offer_accept(True, accepted)
