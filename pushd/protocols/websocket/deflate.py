"""Negotiate permessage-deflate (RFC 7692), without any context between messages."""

from __future__ import annotations

from typing import Any

from autobahn.websocket.compress import (
    PerMessageDeflate,
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
)

from pushd.protocols.websocket.frames import MAX_WINDOW_BITS, MEMORY_LEVEL


def negotiate(offered: list[tuple[str, dict[str, Any]]]) -> PerMessageDeflateOfferAccept | None:
    """Accept the first offer of permessage-deflate that can be met; return None if there is none.

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
    """Return what Autobahn decompresses messages with."""
    return PerMessageDeflate.create_from_offer_accept(True, accepted)
