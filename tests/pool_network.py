"""A network in memory on a loop whose time passes only when told.

It stands for the outside world: sockets are real but never connected, what connects,
answers, hangs or ends is decided by the test. All that uses it is the real thing.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

Way = Literal["accept", "refuse", "hang", "no-descriptor"]
_REQUEST = re.compile(rb"([A-Z]+) /(\d+) ")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
MOST_TURNS = 20_000
"""A loop that does not come to rest before is spinning."""


@dataclass
class Sent:
    """A request as it left the client."""

    number: int
    method: bytes
    line: Line
    nth: int
    """Which one on its line, from 1."""
    heard_before: int
    """Bytes the client had been given on the line until then."""
    is_lost: bool
    """The peer had gone."""


class Line(asyncio.Transport):
    """A connection: the client's transport, and what its peer does."""

    def __init__(self, network: Network, sock: socket.socket, address: tuple[Any, ...]) -> None:
        super().__init__()
        self._network = network
        self._loop = network.loop
        self._sock = sock
        self._address = address
        self._protocol: Any = None
        self._written = b""
        self._coming: deque[bytes | Exception | None] = deque()
        self._is_paused = False
        self.is_closed = False
        """The client has closed it, or learned of its end."""
        self.is_ended = False
        """The peer will say no more."""
        self.asked = 0
        self.served = -1
        """The number of the request that came last."""
        self.pending: Sent | None = None
        """What the peer has not answered to the end."""
        self.rest = b""
        """Of an answer that was begun."""
        self.heard = 0
        """Bytes the client was given."""
        self.is_spoilt = False
        """No request may come any more."""
        self.idle_since: float | None = None
        self.idles_for: float | None = None
        """Seconds that the peer said it would keep the line; None: not said."""

    def __repr__(self) -> str:
        return f"<Line to {self._address[0]}, {self.asked} asked, closed {self.is_closed}>"

    # The client's side

    async def connect(self, protocol: Any) -> None:
        self._protocol = protocol
        made = self._loop.create_future()
        self._loop.call_soon(protocol.connection_made, self)
        self._loop.call_soon(_finish, made)
        try:
            await made
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written += bytes(data)
        while (end := self._written.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._written[:end])
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._written) < size:
                return
            found = _REQUEST.match(self._written)
            assert found is not None, self._written
            self._written = self._written[size:]
            self._take(found[1], int(found[2]))

    def _take(self, method: bytes, number: int) -> None:
        self.asked += 1
        self.served = number
        self.idle_since = None
        is_lost = self.is_ended or self.is_closed
        sent = Sent(number, method, self, self.asked, self.heard, is_lost)
        self._network.log.append(sent)
        assert not self.is_spoilt, f"request {number} on a line that may not be used again"
        if not is_lost:
            assert self.pending is None, f"request {number} before the answer of another"
            self.pending = sent

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        self._close(None)

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        for _ in self._coming:
            self._loop.call_soon(self._arrive)

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": self._address, "socket": self._sock}.get(name, default)

    def _close(self, error: Exception | None) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.pending = None
            self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        self._protocol.connection_lost(error)
        self._sock.close()

    # The peer's side

    def say(self, data: bytes) -> None:
        self._come(data)

    def finish(self) -> None:
        self.is_ended = True
        self._come(None)

    def reset(self) -> None:
        self.is_ended = True
        self._come(ConnectionResetError(errno.ECONNRESET, "reset by the peer"))

    def answered(self) -> None:
        """The last byte was said."""
        self.pending = None
        self.rest = b""
        self.idle_since = self._loop.time()

    def _come(self, what: bytes | Exception | None) -> None:
        self._coming.append(what)
        self._loop.call_soon(self._arrive)

    def _arrive(self) -> None:
        if self.is_closed or not self._coming or (self._is_paused and self._coming[0]):
            return
        what = self._coming.popleft()
        if isinstance(what, bytes):
            self.heard += len(what)
            self._protocol.data_received(what)
        elif what is not None:
            self._close(what)
        elif not self._protocol.eof_received():
            self.close()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Network:
    """Who answers a connect, every line there was, every request that was sent."""

    def __init__(self) -> None:
        self.loop = VirtualLoop(self)
        self.ways: dict[str, Way] = {}
        """By address; accept where nothing is said."""
        self.lines: list[Line] = []
        self.log: list[Sent] = []
        self._sockets: list[socket.socket] = []
        self._hanging: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<Network {len(self.lines)} lines, {len(self.log)} requests>"

    def open_sockets(self) -> int:
        """Sockets that are connecting or connected and whose descriptor is open."""
        self._sockets = [sock for sock in self._sockets if sock.fileno() >= 0]
        return len(self._sockets)

    def open_lines(self) -> list[Line]:
        return [line for line in self.lines if not line.is_closed]

    def let_through(self) -> None:
        """From now on every connect succeeds, those that hang too."""
        self.ways.clear()
        for future in self._hanging:
            _finish(future)
        self._hanging.clear()

    async def connect(self, sock: socket.socket, address: tuple[Any, ...]) -> None:
        self._sockets.append(sock)
        await asyncio.sleep(0)
        way = self.ways.get(address[0], "accept")
        if way == "refuse":
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        if way == "no-descriptor":
            raise OSError(errno.EMFILE, "too many open files")
        if way == "hang":
            future = self.loop.create_future()
            self._hanging.append(future)
            await future

    async def join(self, protocol: Any, sock: socket.socket, address: tuple[Any, ...]) -> Line:
        line = Line(self, sock, address)
        self.lines.append(line)
        await line.connect(protocol)
        return line


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio's own loop, but for what lies outside: the clock and the sockets."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network
        self._selector = self
        self._addresses: dict[socket.socket, tuple[Any, ...]] = {}
        self._now = 1000.0
        self._until = self._now
        self._turns = 0

    def time(self) -> float:
        return self._now

    def settle(self, seconds: float = 0.0) -> None:
        """Run until nothing is left to do, and time has passed by that much."""
        self._until = self._now + seconds
        self._turns = 0
        self.run_forever()

    def turn(self, count: int) -> None:
        """Run what is ready, and what that made ready, and so on, that many times."""
        for _ in range(count):
            self._turns = 0
            self.call_soon(self.stop)
            self.run_forever()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What is done here is done as by a callback of the loop, within one turn."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)

    def select(self, timeout: float | None) -> list[Any]:
        """The outside world's turn: time passes."""
        self._turns += 1
        assert self._turns < MOST_TURNS, "the loop does not come to rest"
        if timeout == 0:
            return []
        if timeout is not None and self._now + timeout <= self._until:
            self._now += timeout
        else:
            self._now = self._until
            self.stop()
        return []

    def _process_events(self, events: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        await self._network.connect(sock, address)
        self._addresses[sock] = address

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], *, sock: socket.socket
    ) -> tuple[Line, Any]:
        protocol = protocol_factory()
        return await self._network.join(protocol, sock, self._addresses.pop(sock)), protocol
