"""A server of raw sockets that does what a script says; counts what it sees."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
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

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_gone(self) -> None:
        while await self.reader.read(65536):
            pass


async def polite(peer: Peer, head: bytes) -> bool:
    await peer.send(OK)
    return True


class Server:
    """`script(peer, head)` is awaited for each request head; False: close after it."""

    def __init__(
        self,
        script: Callable[[Peer, bytes], Awaitable[bool | None]] = polite,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script
        self.host = host
        self.tls = tls
        self.port = 0
        self.connections = 0
        self.open = 0
        self.peak = 0
        self.heads: list[bytes] = []
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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        self.changed.set()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._converse(Peer(self, reader, writer))
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()
        self.open -= 1
        self.changed.set()
        self.tasks.discard(task)

    async def _converse(self, peer: Peer) -> None:
        while True:
            head = await peer.reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            peer.requests += 1
            if not await self.script(peer, head):
                return
