"""Topics for ASGI applications."""
