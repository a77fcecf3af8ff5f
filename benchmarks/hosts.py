"""Any number of hosts on one machine: a server in a process of its own on all of 127.0.0.0/8.

Owns: the server, starting and stopping it, what it counts. Does not own: who asks it.

Invariants: only loopback reaches it: it is bound to the device `lo` (an address for each
host would cost a descriptor each, and 0.0.0.0 alone would be open to the network), and
where the system has no such binding there is no server. It keeps connections open, as web
servers do, and runs under its own descriptor limit, the highest it may have.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import ssl
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from benchmarks.measure import ROOT, python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["CERTIFICATE", "address", "counted", "hosts", "raise_limit"]

CERTIFICATE = ROOT / "tests" / "pool_server.pem"
"""Key and certificate for 127.0.0.1, its own authority."""
COUNTS = b"/.counts"
TEXT = "A host on loopback that says the same as its neighbours. " * 18


def address(number: int) -> str:
    """The loopback address of a host, from 0 on."""
    return f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"


@contextmanager
def hosts(*, links: int = 0, tls: bool = False) -> Iterator[int]:
    """The port on which every address of 127.0.0.0/8 answers.

    Each has a start page with `links` links to further pages; `/close` is a page after
    which the connection is closed. SystemExit where the system cannot bind to `lo`.
    """
    command = python("-m", "benchmarks.hosts", "--links", str(links), *(["--tls"] if tls else []))
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        told = process.stdout.readline()
        if not told:
            raise SystemExit("error: no server on 127.0.0.0/8\nhint: it needs Linux 5.7 or later")
        yield int(told)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def counted(port: int) -> dict[str, int]:
    """What the server has seen: connections `open` now, their `peak` while a page was asked
    for, and `pages`, the different ones."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{COUNTS.decode()}", timeout=10) as answer:
        counts: dict[str, int] = json.load(answer)
    return counts


def raise_limit() -> int:
    """Raise this process's descriptor limit as far as it may; what it is now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class _Site:
    """What every host serves, and what was asked for."""

    def __init__(self, links: int) -> None:
        anchors = "".join(
            f'<a href="/{number}">Page {number}</a>\n' for number in range(1, links + 1)
        )
        self._start = _answer(f"<title>Start</title>\n{anchors}<p>{TEXT}</p>\n")
        self._page = _answer(f"<title>Page</title>\n<p>{TEXT}</p>\n")
        self._last = _answer(f"<title>Page</title>\n<p>{TEXT}</p>\n", "Connection: close\r\n")
        self.open: set[_Connection] = set()
        self._peak = 0
        self._pages: set[tuple[str, bytes]] = set()

    def answer(self, host: str, path: bytes) -> bytes:
        if path == b"/robots.txt":
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        if path == COUNTS:
            # The connection that asks is one of them.
            seen = {"open": len(self.open) - 1, "peak": self._peak, "pages": len(self._pages)}
            return _answer(json.dumps(seen), "Connection: close\r\n")
        self._peak = max(self._peak, len(self.open))
        self._pages.add((host, path))
        if path == b"/close":
            return self._last
        return self._start if path == b"/" else self._page


class _Connection(asyncio.Protocol):
    """Answers GETs, one after another."""

    def __init__(self, site: _Site) -> None:
        self._site = site
        self._seen = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._host: str = transport.get_extra_info("sockname")[0]
        self._site.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._site.open.discard(self)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            path = bytes(self._seen).split(b" ", 2)[1]
            del self._seen[: end + 4]
            self._transport.write(self._site.answer(self._host, path))
            if path in (b"/close", COUNTS):
                self._transport.close()


def _answer(body: str, extra: str = "") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n{extra}"
    return f"{head}\r\n{body}".encode()


def _listening() -> socket.socket:
    if not hasattr(socket, "SO_BINDTODEVICE"):
        raise SystemExit(1)
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    bound.bind(("", 0))
    return bound


async def _serve(links: int, certificate: Path | None) -> None:
    site = _Site(links)
    context: ssl.SSLContext | None = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    loop: Any = asyncio.get_running_loop()
    bound = _listening()
    server = await loop.create_server(
        lambda: _Connection(site), sock=bound, backlog=4096, ssl=context
    )
    print(bound.getsockname()[1], flush=True)
    await server.serve_forever()


def _main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", type=int, default=0)
    parser.add_argument("--tls", action="store_true")
    given = parser.parse_args()
    raise_limit()
    try:
        uvloop.run(_serve(given.links, CERTIFICATE if given.tls else None))
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    _main()
