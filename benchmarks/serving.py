"""A static server in processes of its own: nginx where it is on PATH, else one written here.

Owns: starting it over a folder on a free loopback port, and stopping it.
Does not own: the folder.

Invariants: the server's CPU never counts as the client's, because it is never the client's
child; only loopback is listened on.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from benchmarks.measure import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["served"]

START_S = 10.0
"""Seconds a server may take until it accepts."""
NGINX = """
{user}
daemon off;
worker_processes 1;
pid {work}/pid;
error_log {work}/error.log;
events {{ worker_connections 8192; }}
http {{
  types {{ text/html html htm; text/css css; text/javascript js; image/png png; }}
  access_log off;
  sendfile on;
  keepalive_requests 1000000;
  keepalive_timeout 300s;
  open_file_cache max=50000 inactive=300s;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fast;
  uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; charset utf-8; }}
}}
"""


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve a folder; gives the origin (`http://127.0.0.1:PORT`) and the server's name."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as work:
        if shutil.which("nginx"):
            command, name = _nginx(folder.resolve(), Path(work), port), _nginx_name()
        else:
            here = [sys.executable, "-m", "benchmarks.serving"]
            command, name = [*here, str(folder.resolve()), str(port)], "benchmarks.serving"
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}", name
        finally:
            process.terminate()
            process.wait()


def _nginx(root: Path, work: Path, port: int) -> list[str]:
    # A master that runs as root gives its workers to somebody who may not read the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config = work / "nginx.conf"
    config.write_text(NGINX.format(user=user, work=work, port=port, root=root))
    return ["nginx", "-p", str(work), "-c", str(config), "-e", str(work / "error.log")]


def _nginx_name() -> str:
    told = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
    return told.stderr.rpartition(": ")[2].strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return cast("int", probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit("error: the static server did not start")


class _Files:
    """Whole answers by path, read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._answers: dict[bytes, bytes] = {}

    def answer(self, path: bytes) -> bytes:
        if path not in self._answers:
            self._answers[path] = self._read(path.partition(b"?")[0].decode("ascii"))
        return self._answers[path]

    def _read(self, path: str) -> bytes:
        file = (self._root / path.lstrip("/")).resolve()
        if not file.is_relative_to(self._root) or not file.is_file():
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        body = file.read_bytes()
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


class _Connection(asyncio.Protocol):
    """Answers GETs, one after another."""

    def __init__(self, files: _Files) -> None:
        self._files = files
        self._seen = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            path = bytes(self._seen).split(b" ", 2)[1]
            del self._seen[: end + 4]
            self._transport.write(self._files.answer(path))


async def _serve(root: Path, port: int) -> None:
    files = _Files(root)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(files), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
