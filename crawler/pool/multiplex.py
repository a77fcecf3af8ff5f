"""HTTP/2 on one connection: httpcore's engine, read by the loop instead of by its callers.

Owns: frames in and out, streams and their windows, what the server said of each. Does not
own: the socket and the pool's places (`http2`), waiting (`exchange`), h2's faults (`frames`).

httpcore lets whichever request happens to wait read for all, under that one's timeout,
and holds locks across awaits, so that a late or cancelled request tears the connection
(httpcore #1022). Here bytes are read when they come and frames written without waiting,
each change of state in one turn of the loop. Left to httpcore: the order of a request's
steps, heads, upload and body in frames.

Invariants: at most WINDOW bytes of a stream wait unread; a stream that is given up is
reset and its windows given back; nothing a parser raises gets into the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Protocol

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import httpcore

from crawler.errors import FetchError
from crawler.pool.exchange import WINDOW, Exchange, Lost, again
from crawler.pool.frames import FrameState, Violated, what_is_wrong
from crawler.pool.link import Crowded, Unserved
from crawler.pool.stream import Unlocked

if TYPE_CHECKING:
    from crawler.pool.call import Origin
    from crawler.pool.link import Home

__all__ = ["Multiplex"]

STREAMS = 100
"""Requests at once beyond which we do not go, whatever the server allows."""
ALL_WINDOWS = 2 * STREAMS * WINDOW
"""Bytes that it may send ahead on all streams. h2 gives a window back by halves: so the other
half still holds all that readers who stop may leave unread."""
FLOOD = 4 << 20
"""Unsent bytes at which a server that asks and does not read is given up."""
LAST_STREAM = (1 << 31) - 1
_Settings = h2.settings.SettingCodes


class Carrier(Protocol):
    """The connection, as far as frames are concerned."""

    origin: Origin
    home: Home
    is_closed: bool

    @property
    def is_full(self) -> bool:
        """True while the peer does not read as fast as we write."""

    def flush(self, data: bytes) -> int:
        """Send frames, never waiting; how many bytes the peer has not taken yet."""

    def limit(self, streams: int) -> None:
        """The server takes so many requests at once."""

    def retire(self) -> None:
        """Take no new request."""

    def fail(self, error: FetchError) -> None:
        """Close; requests still under way fail with that."""

    def freed(self) -> None:
        """A stream has ended."""


class Multiplex(httpcore.AsyncHTTP2Connection):
    """httpcore's connection with its reading, locks and closing replaced."""

    _h2_state: Any
    _events: Any
    _init_lock: Any
    _state_lock: Any
    _max_streams_semaphore: Any

    def __init__(self, link: Carrier) -> None:
        origin = link.origin
        super().__init__(
            origin=httpcore.Origin(origin.scheme.encode(), origin.host.encode(), origin.port),
            stream=httpcore.AsyncNetworkStream(),
        )
        self._h2_state = FrameState(self.CONFIG)
        self._init_lock = self._state_lock = Unlocked()
        self._max_streams_semaphore = _Unbounded()
        self._sent_connection_init = True
        self._link = link
        self._limits = link.home.limits
        self._exchanges: dict[int, Exchange] = {}
        self._is_broken = False

    def __repr__(self) -> str:
        return f"<Multiplex of {len(self._exchanges)} streams>"

    def begin(self) -> None:
        """Send the preface and our settings."""
        state = self._h2_state
        state.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                _Settings.ENABLE_PUSH: 0,
                _Settings.INITIAL_WINDOW_SIZE: WINDOW,
                _Settings.MAX_CONCURRENT_STREAMS: STREAMS,
                _Settings.MAX_HEADER_LIST_SIZE: self._limits.size,
            },
        )
        del state.local_settings[_Settings.ENABLE_CONNECT_PROTOCOL]
        state.decoder.max_header_list_size = self._limits.size
        state.initiate_connection()
        state.increment_flow_control_window(ALL_WINDOWS)
        self._flush()

    def receive(self, data: bytes) -> None:
        """Frames came, or parts of them."""
        state, failed = self._h2_state, self._hear(data)
        if failed is not None:
            self._break(failed)
        elif state.is_overlong:
            self._break(FetchError("protocol", "a frame longer than we allow"))
        elif self._flush() > FLOOD:
            self._link.fail(FetchError("protocol", "the server sends frames and reads none"))

    def leave(self, exchange: Exchange) -> None:
        """No more is wanted of it: reset unless both sides have ended. Idempotent."""
        self._events.pop(exchange.stream_id, None)
        if exchange.events:
            self._take(exchange.events)
            exchange.events.clear()
        exchange.fail(FetchError("cancelled", "the answer was closed before its end"))
        self._finish(exchange)
        self._flush()  # of one that was over, too: its window goes back

    def end(self, error: FetchError) -> None:
        """The connection is gone."""
        for exchange in list(self._exchanges.values()):
            if not exchange.is_ended:
                is_cut = exchange.is_answered and isinstance(error, Lost)
                exchange.fail(_short(exchange) if is_cut else error)
            self._finish(exchange)

    def take_leave(self) -> None:
        """Tell the server that we go."""
        with contextlib.suppress(h2.exceptions.ProtocolError):
            if not self._is_broken:
                self._h2_state.close_connection()
        self._flush()

    def ping(self) -> None:
        """Ask the server for a sign of life."""
        self._h2_state.ping(bytes(8))
        self._flush()

    def wake_senders(self) -> None:
        """There may be room for uploads."""
        for exchange in self._exchanges.values():
            exchange.sender.wake()

    # What httpcore calls

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        """The pool has seen to it."""
        return True

    async def _send_request_headers(self, request: httpcore.Request, stream_id: int) -> None:
        exchange: Exchange = request.extensions["exchange"]
        state = self._h2_state
        if state.open_outbound_streams >= state.remote_settings.max_concurrent_streams:
            raise Crowded("reset", "the server takes fewer requests at once than before")
        exchange.stream_id = stream_id
        exchange.events = self._events[stream_id]
        self._exchanges[stream_id] = exchange
        try:
            await super()._send_request_headers(request, stream_id)
        except h2.exceptions.ProtocolError:
            # A head that was refused half-way has changed our compression table already.
            self._link.retire()
            raise

    async def _send_request_body(self, request: httpcore.Request, stream_id: int) -> None:
        exchange: Exchange = request.extensions["exchange"]
        body = exchange.call.body
        if body is None or (isinstance(body, bytes) and len(body) <= self._room(stream_id)):
            await super()._send_request_body(request, stream_id)
            self._sent(exchange)
        else:
            exchange.upload = asyncio.create_task(self._upload(request, exchange))

    async def _send_stream_data(
        self, request: httpcore.Request, stream_id: int, data: bytes
    ) -> None:
        view: Any = memoryview(data)  # httpcore cuts the rest off anew for each frame
        await super()._send_stream_data(request, stream_id, view)

    async def _wait_for_outgoing_flow(self, request: httpcore.Request, stream_id: int) -> int:
        exchange: Exchange = request.extensions["exchange"]
        within = exchange.call.deadlines.write
        due_at = None if within is None else asyncio.get_running_loop().time() + within
        while not (room := self._room(stream_id)):
            if exchange.error is not None:
                raise again(exchange.error)
            is_early = exchange.is_answered
            if not await exchange.sender.until(None if is_early else due_at):
                raise FetchError(
                    "write-timeout", f"the server took nothing for {within:g} s (timeout.write)"
                )
        if stream_id in self._exchanges:  # who has sent is woken last
            self._exchanges[stream_id] = self._exchanges.pop(stream_id)
        largest: int = self._h2_state.max_outbound_frame_size
        return min(room, largest)

    async def _receive_stream_event(self, request: httpcore.Request, stream_id: int) -> Any:
        exchange: Exchange = request.extensions["exchange"]
        return await exchange.next_event()

    async def _write_outgoing_data(self, request: httpcore.Request) -> None:
        self._flush()

    async def _response_closed(self, stream_id: int) -> None:
        exchange = self._exchanges.get(stream_id)
        if exchange is not None:
            self.leave(exchange)
        self._events.pop(stream_id, None)

    # Inside: what the server said

    def _hear(self, data: bytes) -> Exception | None:
        """Take frames; what made them unreadable, after all that came before it."""
        state, failed = self._h2_state, None
        try:
            state.receive_data(data)
        except Exception as error:
            failed = error
        seen, state.seen = state.seen, []
        try:
            for event in seen:
                self._dispatch(event)
        except Exception as error:
            return failed or error
        return failed

    def _dispatch(self, event: Any) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self._told_to_go(event)
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self.wake_senders()
            allowed = self._h2_state.remote_settings.max_concurrent_streams
            self._link.limit(min(STREAMS, allowed))
        elif isinstance(event, h2.events.WindowUpdated):
            self.wake_senders()
        else:
            exchange = self._exchanges.get(getattr(event, "stream_id", None) or 0)
            if exchange is not None:
                self._heard(exchange, event)
            elif isinstance(event, h2.events.DataReceived):
                self._take([event])

    def _heard(self, exchange: Exchange, event: Any) -> None:
        """An event of one stream."""
        if isinstance(event, h2.events.DataReceived):
            if event.data:
                exchange.keep(event)
            else:
                self._take([event])
        elif isinstance(event, h2.events.ResponseReceived):
            self._head(exchange, event)
        elif isinstance(event, h2.events.InformationalResponseReceived):
            exchange.interim += 1
            if exchange.interim > self._limits.interim:
                over = f"over {self._limits.interim} interim answers (head.interim)"
                self._refuse(exchange, FetchError("head-limit", over))
        elif isinstance(event, h2.events.StreamEnded):
            self._ended(exchange, event)
        elif isinstance(event, Violated):
            self._refuse(exchange, _violation(exchange, event.error))
        elif isinstance(event, h2.events.StreamReset):
            self._reset(exchange, event)

    def _head(self, exchange: Exchange, event: Any) -> None:
        wrong = what_is_wrong(event.headers)
        if wrong:
            self._refuse(exchange, FetchError("protocol", f"not HTTP: {wrong}"))
            return
        fields = dict(event.headers)
        length = fields.get(b"content-length")
        is_bodiless = exchange.call.method == b"HEAD" or fields[b":status"] in (b"204", b"304")
        exchange.expected = int(length) if length and not is_bodiless else None
        exchange.is_answered = True
        exchange.keep(event)
        exchange.sender.wake()  # its deadline was the answer's

    def _ended(self, exchange: Exchange, event: Any) -> None:
        exchange.is_ended = True
        if exchange.expected is not None and exchange.received != exchange.expected:
            exchange.fail(_short(exchange))
        else:
            exchange.keep(event)
        if exchange.sent_at is not None:
            self._finish(exchange)

    def _reset(self, exchange: Exchange, event: Any) -> None:
        code = event.error_code
        name = getattr(code, "name", str(code))
        if not exchange.is_ended:
            is_refused = code == h2.errors.ErrorCodes.REFUSED_STREAM and not exchange.is_answered
            kind = Unserved if is_refused else FetchError
            exchange.fail(kind("reset", f"the server ended the stream: {name}"))
        exchange.is_ended = True
        exchange.sent_at = exchange.sent_at or 0.0
        self._finish(exchange)

    def _told_to_go(self, event: Any) -> None:
        self._link.retire()  # first: what these give back is not for those that wait
        last = LAST_STREAM if event.last_stream_id is None else event.last_stream_id
        for exchange in list(self._exchanges.values()):
            if exchange.stream_id > last and not exchange.is_ended:
                exchange.fail(Unserved("reset", "the server went before it looked at the request"))
                exchange.is_ended = True
                exchange.sent_at = exchange.sent_at or 0.0
                self._finish(exchange)

    def _refuse(self, exchange: Exchange, error: FetchError) -> None:
        """The server did what it must not: the stream is reset."""
        exchange.fail(error)
        self._finish(exchange)

    def _break(self, error: Exception) -> None:
        """What came can no longer be read as HTTP/2."""
        self._is_broken = True
        culprit = self._exchanges.get(self._h2_state.culprit)
        if isinstance(error, h2.exceptions.DenialOfServiceError):
            found = FetchError("head-limit", f"{self._limits.size} bytes (head.bytes)")
        else:
            what = error.args[0] if error.args else type(error).__name__
            found = FetchError("protocol", f"not HTTP/2: {what}")
        if culprit is not None:
            culprit.fail(found)
            found = FetchError("reset", "another answer has broken the connection")
        self._flush()
        self._link.fail(found)

    # Inside: places, windows, bytes

    def _take(self, events: list[Any]) -> None:
        """Bytes that nobody will read make room in the windows all the same."""
        for event in events:
            size = getattr(event, "flow_controlled_length", None)
            if size:
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self._h2_state.acknowledge_received_data(size, event.stream_id)

    def _finish(self, exchange: Exchange) -> None:
        """The stream is over for us; its place goes back."""
        if exchange.is_over:
            return
        exchange.is_over = True
        self._exchanges.pop(exchange.stream_id, None)
        if exchange.upload is not None:
            exchange.upload.cancel()
        is_whole = exchange.is_ended and exchange.sent_at is not None
        if exchange.stream_id and not is_whole and not self._link.is_closed:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                cancel = h2.errors.ErrorCodes.CANCEL
                self._h2_state.reset_stream(exchange.stream_id, cancel)
        self._flush()
        self._link.freed()

    async def _upload(self, request: httpcore.Request, exchange: Exchange) -> None:
        """Send a body beside the waiting for its answer."""
        try:
            await super()._send_request_body(request, exchange.stream_id)
        except h2.exceptions.ProtocolError:
            return  # the stream is closed: its end tells
        except FetchError as error:
            exchange.upload = None
            self._refuse(exchange, error)
        except Exception as error:
            exchange.upload = None
            failed = FetchError("bad-request", f"the body could not be produced: {error!r}")
            failed.__cause__ = error
            self._refuse(exchange, failed)
        else:
            exchange.upload = None
            self._sent(exchange)
        finally:
            if isinstance(exchange.call.body, AsyncGenerator):
                with contextlib.suppress(Exception):
                    await exchange.call.body.aclose()

    def _sent(self, exchange: Exchange) -> None:
        exchange.sent_at = asyncio.get_running_loop().time()
        exchange.reader.wake()
        if exchange.is_ended:
            self._finish(exchange)

    def _room(self, stream_id: int) -> int:
        """Bytes of a body that may leave now; 0: wait."""
        if self._link.is_full:
            return 0
        window: int = self._h2_state.local_flow_control_window(stream_id)
        return max(0, window)

    def _flush(self) -> int:
        return self._link.flush(self._h2_state.data_to_send())


class _Unbounded:
    """A semaphore that never refuses: the pool counts streams."""

    async def acquire(self) -> None:
        """At once."""


def _violation(exchange: Exchange, error: Exception) -> FetchError:
    if isinstance(error, h2.exceptions.InvalidBodyLengthError):
        if error.actual_length < error.expected_length:
            return _short(exchange)
        return FetchError("protocol", f"the body is longer than {error.expected_length} bytes")
    return FetchError("protocol", f"not HTTP/2: {error}")


def _short(exchange: Exchange) -> FetchError:
    return FetchError("truncated", f"the body ended after {exchange.received} bytes")
