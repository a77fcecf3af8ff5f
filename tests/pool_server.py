"""A server of raw sockets that does what a script says; counts what it sees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """One connection as the server has it."""

    def __init__(
        self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.number = server.connections
        self.requests = 0

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes, every: float) -> None:
        """Byte by byte, until the other end is gone."""
        for byte in data:
            await self.send(bytes([byte]))
            if await self.is_gone_within(every):
                return

    async def body(self, head: bytes) -> bytes:
        """The request's body, in whichever framing it came."""
        if b"transfer-encoding: chunked" in head.lower():
            parts = []
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                parts.append(await self.reader.readexactly(size))
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return b"".join(parts)
        found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        return await self.reader.readexactly(int(found[1]) if found else 0)

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def twin(self) -> socket.socket:
        """The same socket once more, past the loop: what is done to it is done at once."""
        sock = self.writer.get_extra_info("socket")
        return socket.socket(fileno=os.dup(sock.fileno()))

    def finish_now(self) -> None:
        """Send FIN without giving the loop a turn."""
        with self.twin() as sock:
            sock.shutdown(socket.SHUT_WR)

    def send_now(self, data: bytes) -> None:
        """Send a little without giving the loop a turn."""
        with self.twin() as sock:
            assert sock.send(data) == len(data)

    async def until_gone(self) -> None:
        while await self.reader.read(65536):
            pass

    async def is_gone_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.until_gone()
        except TimeoutError:
            return False
        return True


Script = Callable[[Peer, bytes], Awaitable[bool | None]]
"""Awaited for each request head; False: close after it."""


class Server:
    """Plays one script to everybody who connects."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script or polite
        self.host = host
        self.tls = tls
        self.port = 0
        self.connections = 0
        self.open = 0
        self.peak = 0
        self.heads: list[bytes] = []
        self.unfinished = b""
        """What came and was no whole head."""
        self.peers: list[Peer] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.changed = asyncio.Event()

    @property
    def domain(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.domain}/"

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, ssl=self.tls, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def until_open(self, count: int) -> None:
        while self.open != count:
            self.changed.clear()
            await self.changed.wait()

    async def until_heads(self, count: int) -> None:
        while len(self.heads) < count:
            self.changed.clear()
            await self.changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        peer = Peer(self, reader, writer)
        self.peers.append(peer)
        self.changed.set()
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._converse(peer)
        except asyncio.IncompleteReadError as error:
            self.unfinished += error.partial
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self.open -= 1
            self.peers.remove(peer)
            self.changed.set()
            self.tasks.discard(task)

    async def _converse(self, peer: Peer) -> None:
        while True:
            head = await peer.reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            peer.requests += 1
            self.changed.set()
            if not await self.script(peer, head):
                return


# Scripts


async def polite(peer: Peer, head: bytes) -> bool:
    await peer.body(head)
    await peer.send(OK)
    return True


def answering(data: bytes) -> Script:
    """Says that and closes."""

    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(data)
        return False

    return script


def keeping(data: bytes) -> Script:
    """Says that to every request and waits for the next."""

    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(data)
        return True

    return script


def saying(data: bytes) -> Script:
    """Says that and waits until the other end closes."""

    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(data)
        await peer.until_gone()
        return False

    return script


def repeating(start: bytes, rest: bytes) -> Script:
    """Says the start once and the rest for ever."""

    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(start)
        while True:
            await peer.send(rest)

    return script


def dripping(start: bytes, rest: bytes, every: float) -> Script:
    """Says the start at once and the rest a byte at a time."""

    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(start)
        await peer.drip(rest, every)
        return False

    return script


hang = saying(b"")


async def reset_at_once(peer: Peer, head: bytes) -> bool:
    peer.reset()
    return False
