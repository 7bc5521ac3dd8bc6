"""Applications written for ASGI: HTTP, WebSockets, and their start and end."""
