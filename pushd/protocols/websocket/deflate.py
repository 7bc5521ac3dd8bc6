"""Negotiate permessage-deflate (RFC 7692), without any context between messages; decompress."""

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

# Not typed: Autobahn leaves this class untyped.
_AnyDeflate: Any = PerMessageDeflate


class WholeMessageDeflate(_AnyDeflate):
    """Decompresses a message once it has arrived as a whole.

    Autobahn would decompress each piece at once: with 1 KiB a client could make an unfinished
    message take 1 MiB, for as long as it likes.
    """

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
        inflater = zlib.decompressobj(-self.client_max_window_bits)
        payload = inflater.decompress(message, limit + 1)
        if len(payload) <= limit:
            inflater.decompress(_TAIL)
        return payload


def negotiate(offered: list[tuple[str, dict[str, Any]]]) -> PerMessageDeflateOfferAccept | None:
    """Accept the first offer of permessage-deflate that can be met; return None without one.

    An offer with unknown or invalid parameters is declined (RFC 7692 §5).

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
            request_no_context_takeover=True,
            no_context_takeover=True,
            window_bits=min(MAX_WINDOW_BITS, offer.request_max_window_bits or MAX_WINDOW_BITS),
            mem_level=MEMORY_LEVEL,
        )
    return None


def decompressor(accepted: PerMessageDeflateOfferAccept) -> Any:
    """Return what is set in a connection that compresses messages."""
    return WholeMessageDeflate.create_from_offer_accept(True, accepted)
