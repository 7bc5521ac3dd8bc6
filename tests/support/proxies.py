"""Real reverse proxies in front of a daemon: nginx and HAProxy."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

# Debian installs them where only root's PATH looks.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"

# Seconds after which a proxy must have ended.
_TIMEOUT = 60.0

#: A view for tests of what passes through a proxy.
ECHO_VIEWS = """
from pushd.views import accept_websocket

@accept_websocket
async def echo(request):
    async for message in request.websocket:
        request.websocket.send(message)

views = {"/echo/": echo}
"""

#: Directives of nginx around ``content``, with which it writes to no other folder.
NGINX_FRAME = """
daemon off;
user {user};
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {content}
}}
"""

_NGINX_SERVER = """
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
        }}
        {locations}
    }}
"""

_HAPROXY = """
defaults
    mode {mode}
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
listen pushd
    bind fd@{descriptor}
    server pushd {upstream} {options}
"""


@contextmanager
def run_proxy(
    name: str,
    upstream: str,
    folder: Path,
    options: str = "",
    *,
    mode: str = "http",
    locations: str = "",
) -> Iterator[int]:
    """Run a proxy in front of a host and port; yield its own port on 127.0.0.1.

    :param name: ``nginx`` or ``haproxy``.
    :param folder: where it may write.
    :param options: of HAProxy's server, such as ``send-proxy``.
    :param mode: of HAProxy: ``http``, or ``tcp`` to pass on bytes, such as those of TLS.
    :param locations: further ones of nginx's server.
    """
    command = shutil.which(name, path=_PATH)
    assert command is not None, f"there is no {name}: apt-get install {name}"
    # The proxy inherits a listening socket, so that no other process can take the port.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, descriptor = listener.getsockname()[1], listener.fileno()
        file = folder / f"{name}.conf"
        if name == "nginx":
            user = getpass.getuser()
            server = _NGINX_SERVER.format(port=port, upstream=upstream, locations=locations)
            file.write_text(NGINX_FRAME.format(folder=folder, user=user, content=server))
            args = ["-p", str(folder), "-c", str(file), "-e", "stderr"]
        else:
            file.write_text(
                _HAPROXY.format(
                    mode=mode, descriptor=descriptor, upstream=upstream, options=options
                )
            )
            args = ["-db", "-f", str(file)]
        process = subprocess.Popen(
            [command, *args],
            env={**os.environ, "NGINX": f"{descriptor};"},
            pass_fds=[descriptor],
        )
    try:
        if mode == "http":  # Else nothing would tell the proxy's answer from the daemon's.
            _wait_until_it_answers(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(_TIMEOUT)


def _wait_until_it_answers(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = monotonic() + _TIMEOUT
    while monotonic() < deadline:
        assert process.poll() is None, "the proxy has ended"
        try:
            with socket.create_connection(("127.0.0.1", port), _TIMEOUT) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if connection.recv(1):
                    return
        except OSError:
            pass
        sleep(0.05)
    raise AssertionError("the proxy does not answer")
