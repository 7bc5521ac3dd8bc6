"""WebSocket (RFC 6455) on top of Autobahn."""
