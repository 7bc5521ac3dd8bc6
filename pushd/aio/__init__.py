"""Client of pushd for asyncio; it needs the extra ``pushd[client]``."""

try:
    from pushd.aio.client import Client
except ModuleNotFoundError as error:
    missing = (error.name or "").partition(".")[0]
    if missing not in ("httpx", "websockets"):
        raise
    raise ImportError(f"pushd.aio needs {missing}: pip install 'pushd[client]'") from None
from pushd.aio.messages import Began, Broken, Message
from pushd.errors import PushdError, Refused, Unreachable

__all__ = ["Began", "Broken", "Client", "Message", "PushdError", "Refused", "Unreachable"]
