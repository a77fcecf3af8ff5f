"""Proxies on loopback that record what they see, and the servers behind them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from types import TracebackType

CERTIFICATE = Path(__file__).with_name("pool_server.pem")
"""For localhost and 127.0.0.1."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BROKEN = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)


def server_context() -> SSLContext:
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


class Listener:
    """Talks with each connection until `talk` returns, then closes it."""

    def __init__(self, *, tls: bool = False) -> None:
        self.tls = tls
        self.port = 0
        self.connections = 0
        self.open = 0
        self.heads: list[bytes] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.changed = asyncio.Event()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        context = server_context() if self.tls else None
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
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
        try:
            with contextlib.suppress(*BROKEN):
                await self.talk(reader, writer)
            with contextlib.suppress(asyncio.CancelledError):
                await shut(writer)
        finally:
            self.open -= 1
            self.changed.set()
            self.tasks.discard(task)


class Origin(Listener):
    """Answers every request with `ok`; keeps the heads."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)


class Scripted(Listener):
    """Gives one answer to each piece it hears, then says nothing until the peer has gone."""

    def __init__(self, *answers: bytes, tls: bool = False) -> None:
        super().__init__(tls=tls)
        self.answers = answers
        self.is_silent = asyncio.Event()
        """It has heard something that it will not answer."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in self.answers:
            await reader.read(65_536)
            writer.write(answer)
        while await reader.read(65_536):
            self.is_silent.set()


class Asked(NamedTuple):
    """One SOCKS request."""

    kind: int
    host: str
    port: int


class HttpProxy(Listener):
    """Forwards by absolute form, tunnels by CONNECT; `names` is where names lead."""

    def __init__(
        self,
        names: dict[str, int] | None = None,
        *,
        credentials: bytes | None = None,
        tls: bool = False,
    ) -> None:
        super().__init__(tls=tls)
        self.names = names or {}
        self.authorization = credentials
        """Value of Proxy-Authorization that it wants; None: any or none."""
        self.carried = bytearray()
        """What clients sent through tunnels."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            method, target, _ = head.split(b"\r\n")[0].split(b" ")
            wanted = self.authorization
            if wanted is not None and fields_of(head).get(b"proxy-authorization") != wanted:
                writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno")
                continue
            if method == b"CONNECT":
                await self._tunnel(target, reader, writer)
                return
            await self._forward(head, target, writer)

    async def _tunnel(
        self, target: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, _, port = target.decode().rpartition(":")
        port_here = self.names.get(host, int(port))
        far = await asyncio.open_connection("127.0.0.1", port_here)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await carry(reader, writer, *far, self.carried)

    async def _forward(self, head: bytes, target: bytes, writer: asyncio.StreamWriter) -> None:
        authority, _, path = target.removeprefix(b"http://").partition(b"/")
        host, _, port = authority.decode().partition(":")
        port_here = self.names.get(host) or int(port)
        lines = [line for line in head.split(b"\r\n")[1:] if not line.lower().startswith(b"proxy-")]
        reader, far = await asyncio.open_connection("127.0.0.1", port_here)
        far.write(b"\r\n".join([b"GET /%b HTTP/1.1" % path, *lines]))
        answer = await reader.readuntil(b"\r\n\r\n")
        size = int(fields_of(answer)[b"content-length"])
        writer.write(answer + await reader.readexactly(size))
        await shut(far)


class SocksProxy(Listener):
    """SOCKS5; `names` is where names lead, `code` its reply to every request."""

    def __init__(
        self,
        names: dict[str, int] | None = None,
        *,
        credentials: tuple[bytes, bytes] | None = None,
        code: int = 0,
    ) -> None:
        super().__init__()
        self.names = names or {}
        self.credentials = credentials
        self.code = code
        self.asked: list[Asked] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.carried = bytearray()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        wanted = 2 if self.credentials else 0
        if version != 5 or wanted not in methods:
            writer.write(b"\x05\xff")
            return
        writer.write(bytes([5, wanted]))
        if wanted == 2 and not await self._log_in(reader, writer):
            return
        asked = await self._request(reader)
        self.asked.append(asked)
        if self.code:
            writer.write(bytes([5, self.code, 0, 1, 0, 0, 0, 0, 0, 0]))
            return
        far = await asyncio.open_connection("127.0.0.1", self.names.get(asked.host, asked.port))
        writer.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
        await carry(reader, writer, *far, self.carried)

    async def _log_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        assert await reader.readexactly(1) == b"\x01"
        user = await reader.readexactly((await reader.readexactly(1))[0])
        password = await reader.readexactly((await reader.readexactly(1))[0])
        self.logins.append((user, password))
        is_known = (user, password) == self.credentials
        writer.write(b"\x01\x00" if is_known else b"\x01\x01")
        return is_known

    async def _request(self, reader: asyncio.StreamReader) -> Asked:
        version, command, _, kind = await reader.readexactly(4)
        assert (version, command) == (5, 1)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, await reader.readexactly(size))
        return Asked(kind, host, int.from_bytes(await reader.readexactly(2), "big"))


async def carry(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
    seen: bytearray,
) -> None:
    """Bytes both ways until one side has ended."""

    async def pump(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, copy: bytearray
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                copy += data
                sink.write(data)

    there = asyncio.create_task(pump(reader, far_writer, seen))
    back = asyncio.create_task(pump(far_reader, writer, bytearray()))
    try:
        await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
    finally:
        there.cancel()
        back.cancel()
        await asyncio.wait([there, back])
        await shut(far_writer)


async def shut(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def fields_of(head: bytes) -> dict[bytes, bytes]:
    """Fields of a head by lower-case name."""
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:] if line)
    return {name.lower(): value.strip() for name, _, value in pairs}
