"""An HTTP/2 server over TLS that does what a script says; counts what it sees."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from tests.wire import CA_FILE

if TYPE_CHECKING:
    from types import TracebackType

Script = Callable[["Stream"], Awaitable[None]]
SETTINGS = h2.settings.SettingCodes.__members__


class Stream:
    """One request as the server has it."""

    def __init__(self, peer: Peer, stream_id: int, headers: dict[str, str]) -> None:
        self.peer = peer
        self.id = stream_id
        self.headers = headers
        self.body = b""
        self.has_ended = asyncio.Event()
        self.is_reset = asyncio.Event()
        self.may_send = asyncio.Event()

    @property
    def path(self) -> str:
        return self.headers[":path"]

    def head(self, *fields: tuple[str, str], status: str = "200", end: bool = False) -> None:
        self.peer.h2.send_headers(self.id, [(":status", status), *fields], end_stream=end)
        self.sent(end)

    async def data(self, data: bytes, *, end: bool = False) -> None:
        """Send as fast as the windows allow."""
        state = self.peer.h2
        while data:
            room = min(state.local_flow_control_window(self.id), state.max_outbound_frame_size)
            if room <= 0:
                self.may_send.clear()
                await self.may_send.wait()
                continue
            state.send_data(self.id, data[:room], end_stream=end and room >= len(data))
            data = data[room:]
            self.sent(end and not data)
            await self.peer.writer.drain()

    async def answer(self, body: bytes = b"ok", *fields: tuple[str, str]) -> None:
        self.head(*fields, ("content-length", str(len(body))), end=not body)
        await self.data(body, end=True)

    def reset(self, code: int) -> None:
        self.peer.h2.reset_stream(self.id, code)
        self.has_ended.set()
        self.sent(True)

    def sent(self, is_last: bool) -> None:
        """Let the frames go; a stream both sides have ended counts no more."""
        if is_last and self.has_ended.is_set():
            self.peer.server.over(self)
        self.peer.flush()


class Peer:
    """One connection as the server has it."""

    def __init__(self, server: H2Server, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.writer = writer
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2: Any = h2.connection.H2Connection(config)
        self.streams: dict[int, Stream] = {}
        self.requests = 0
        self.pings = 0
        self.pongs = asyncio.Event()
        self.settled = asyncio.Event()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def settings(self, **values: int) -> None:
        self.h2.update_settings({SETTINGS[name]: value for name, value in values.items()})
        self.flush()

    def raw(self, data: bytes) -> None:
        self.writer.write(data)

    def go_away(self, last: int, code: int = 0) -> None:
        """A GOAWAY that h2 knows nothing of, so that streams can still be ended."""
        body = last.to_bytes(4, "big") + code.to_bytes(4, "big")
        self.raw(b"\0\0\x08\x07\0\0\0\0\0" + body)

    def bomb(self, stream: Stream, fields: int) -> None:
        """A head of that many copies of one large field, each a byte on the wire."""
        large = b"\x40\x01x\x7f\x81\x06" + b"v" * 256  # x: vvv…, kept at index 62
        block = b"\x88" + large + b"\xbe" * fields
        for at in range(0, len(block), 16384):
            part = block[at : at + 16384]
            kind = 1 if at == 0 else 9
            flags = (1 if at == 0 else 0) | (4 if at + 16384 >= len(block) else 0)
            head = len(part).to_bytes(3, "big") + bytes((kind, flags))
            self.raw(head + stream.id.to_bytes(4, "big") + part)


async def polite(stream: Stream) -> None:
    await stream.has_ended.wait()
    await stream.answer(stream.body or b"ok")


async def silent(stream: Stream) -> None:
    await stream.is_reset.wait()


class H2Server:
    """Plays one script for every stream of everybody who connects."""

    def __init__(self, script: Script = polite, *, speaks: str = "h2", **settings: int) -> None:
        self.script = script
        self.settings = settings
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(CA_FILE)
        self.tls.set_alpn_protocols([speaks])
        self.connections = 0
        self.open = 0
        self.active = 0
        self.peak = 0
        self.streams: list[Stream] = []
        self.peers: list[Peer] = []
        self.changed = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def domain(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.domain}/"

    async def __aenter__(self) -> H2Server:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.tls, backlog=512
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

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.changed.clear()
            await self.changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        self.open += 1
        peer = Peer(self, writer)
        self.peers.append(peer)
        try:
            with contextlib.suppress(OSError, h2.exceptions.ProtocolError, asyncio.CancelledError):
                await self._converse(peer, reader)
        finally:
            for stream in list(peer.streams.values()):
                stream.is_reset.set()
                self.over(stream)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self.open -= 1
            self.peers.remove(peer)
            self.changed.set()
            self.tasks.discard(task)

    async def _converse(self, peer: Peer, reader: asyncio.StreamReader) -> None:
        given = {SETTINGS[name]: value for name, value in self.settings.items()}
        peer.h2.local_settings = h2.settings.Settings(client=False, initial_values=given)
        peer.h2.initiate_connection()
        peer.flush()
        while data := await reader.read(65536):
            for event in peer.h2.receive_data(data):
                self._heard(peer, event)
            peer.flush()
            self.changed.set()

    def _heard(self, peer: Peer, event: Any) -> None:
        stream = peer.streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.RequestReceived):
            stream = Stream(peer, event.stream_id, dict[Any, Any](event.headers))
            peer.streams[stream.id] = stream
            peer.requests += 1
            self.streams.append(stream)
            self.active += 1
            self.peak = max(self.peak, self.active)
            task = asyncio.ensure_future(self._play(stream))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif isinstance(event, h2.events.DataReceived) and stream is not None:
            stream.body += event.data
            peer.h2.acknowledge_received_data(event.flow_controlled_length, stream.id)
        elif isinstance(event, h2.events.StreamEnded) and stream is not None:
            stream.has_ended.set()
        elif isinstance(event, h2.events.StreamReset) and stream is not None:
            stream.is_reset.set()
            self.over(stream)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for each in peer.streams.values():
                each.may_send.set()
        elif isinstance(event, h2.events.PingReceived):
            peer.pings += 1
        elif isinstance(event, h2.events.PingAckReceived):
            peer.pongs.set()
        elif isinstance(event, h2.events.SettingsAcknowledged):
            peer.settled.set()

    async def _play(self, stream: Stream) -> None:
        playing = asyncio.ensure_future(self.script(stream))
        given_up = asyncio.ensure_future(stream.is_reset.wait())
        try:
            await asyncio.wait((playing, given_up), return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                with contextlib.suppress(h2.exceptions.ProtocolError, OSError):
                    playing.result()
        finally:
            for task in (playing, given_up):
                task.cancel()
            await asyncio.gather(playing, given_up, return_exceptions=True)
            self.over(stream)

    def over(self, stream: Stream) -> None:
        """Its place is free."""
        if stream.peer.streams.pop(stream.id, None) is not None:
            self.active -= 1
            self.changed.set()
