"""pushd: a push daemon on Twisted and Autobahn. The server talks first."""

__version__ = "0.1.0"
