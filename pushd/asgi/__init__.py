"""Topics for code of an ASGI application that has no scope at hand."""

from pushd.asgi.publishing import last_id, publish

__all__ = ["last_id", "publish"]
