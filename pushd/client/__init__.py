"""Blocking client of pushd for scripts and servers; it needs only the standard library.

from pushd.client import publish
publish("http://127.0.0.1:8081", "news", "hello")
"""

from pushd.client.client import Began, Broken, Client, Message, publish
from pushd.client.http import Connect, connect
from pushd.errors import PushdError, Refused, Unreachable

__all__ = ["Began", "Broken", "Client", "Connect", "Message", "PushdError", "Refused"]
__all__ += ["Unreachable", "connect", "publish"]
