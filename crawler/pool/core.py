"""A connection that httpcore's engine speaks on: the second opinion beside `http1`.

Owns: the way of a request into httpcore and back, deadlines and limits that httpcore does
not know, its errors in our codes. Does not own: which connection serves whom (`bounded`),
opening (`route`), the grammar (httpcore and h11).

httpcore's connection is used through a subclass: its lock is replaced, for it yields to
the loop in the middle of state changes and so loses connections on cancellation
(httpcore #1093); nothing else here suspends between two states. Its pool is not used.

Invariants: as those of `http1`: given back after the last byte, surplus ends it, an
exchange that failed closes it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import h11
import httpcore

from crawler.errors import FetchError
from crawler.pool.call import ConnectionInfo
from crawler.pool.deadlines import RateFloor
from crawler.pool.faults import glimpse, wire_fault
from crawler.pool.keepalive import NO_HINT, parse
from crawler.pool.link import Unsent
from crawler.pool.stream import Stream, Unlocked

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from crawler.pool.call import Call, Headers, HeadLimits, Origin
    from crawler.pool.channel import ChannelOwner
    from crawler.pool.link import Home

SHORT = ("without sending complete message", "incomplete chunked", "unexpectedly closed")
"""What h11 says of a body that ends early."""

__all__ = ["CoreAnswer", "CoreLink", "aborted", "request_of"]


class CoreLink(Stream):
    """A connection used by one request after another."""

    def __init__(self, owner: ChannelOwner, home: Home, origin: Origin) -> None:
        super().__init__(owner, home, origin)
        self._http: _Http11 | None = None

    async def exchange(self, call: Call, head: bytes, begun: float) -> CoreAnswer:
        """Send a request and wait for the head of its answer."""
        self.requests += 1
        self._received_before = self.received
        self.first_bytes = b""
        self.floor = None
        total = call.deadlines.total
        answer = CoreAnswer(self, call, None if total is None else begun + total)
        try:
            if self.is_closed or (self.requests > 1 and (self._is_eof or self._raw)):
                raise Unsent("reset", "the server had closed the connection")
            if self._http is None:
                self._http = _Http11(self, self.home.limits)
            self._http.answer = answer
            await answer.begin(self._http, request_of(call, head, answer.timeouts))
        except BaseException:
            self.close()
            raise
        return answer

    def rested(self, answer: CoreAnswer) -> None:
        """The answer is whole and the connection free."""
        self.home.done(self, answer.hint, answer.is_lasting and not self._is_eof)


class CoreAnswer:
    """An answer as httpcore reads it; iterate over its body, then close it."""

    def __init__(self, link: CoreLink, call: Call, total_at: float | None) -> None:
        self._link = link
        self._call = call
        self._total_at = total_at
        self._body: AsyncIterator[bytes] | None = None
        self._response: httpcore.Response | None = None
        self._size = 0
        self._nth = link.requests
        self.hint = NO_HINT
        self.is_lasting = True
        self.status = 0
        self.reason = b""
        self.headers: Headers = []
        self.info: ConnectionInfo
        deadlines = call.deadlines
        self.timeouts = {"read": deadlines.head, "write": deadlines.write}

    def __repr__(self) -> str:
        return f"<CoreAnswer {self.status}, {self._size} bytes>"

    def __aiter__(self) -> CoreAnswer:
        return self

    async def __anext__(self) -> bytes:
        """The next bytes of the body, still encoded. Raises FetchError."""
        assert self._body is not None
        link = self._link
        if self._total_at is not None and link.now() > self._total_at:
            self.drop()
            raise self._explain(TimeoutError(), in_body=True)
        try:
            async with asyncio.timeout_at(self._total_at):
                data = await anext(self._body)
        except StopAsyncIteration:
            if link.is_aborted:
                raise aborted() from None
            raise
        except BaseException as error:
            self.drop()
            if isinstance(error, Exception):
                raise self._explain(error, in_body=True) from error
            raise
        self._size += len(data)
        return data

    async def begin(
        self, http: httpcore.AsyncConnectionInterface, request: httpcore.Request
    ) -> None:
        """Send and read the head."""
        try:
            async with asyncio.timeout_at(self._total_at) as self._link.opening:
                response = await http.handle_async_request(request)
        except Exception as error:
            raise self._explain(error, in_body=False) from error
        finally:
            self._link.opening = None
        deadlines, link = self._call.deadlines, self._link
        self.timeouts["read"] = deadlines.read
        link.waited_s = 0.0
        link.floor = RateFloor(deadlines.rate, deadlines.rate_over, 0.0, link.received)
        self._accept(response)

    def _accept(self, response: httpcore.Response) -> None:
        """The head has come; the body is to follow."""
        self._response = response
        self.status, self.headers = response.status, list(response.headers)
        self.reason = response.extensions.get("reason_phrase", b"")
        self._frame()
        self.info = self._told(response.extensions["http_version"].decode())
        self._body = aiter(_bytes_of(response))

    async def aclose(self) -> None:
        """Give the connection back, or close it when the body was not read. Idempotent."""
        if self._response is not None:
            await self._response.aclose()

    def drop(self) -> None:
        """Want no more of it: the connection is closed."""
        self._link.close()

    def _frame(self) -> None:
        names = [name.lower() for name, _ in self.headers]
        limits = self._link.home.limits
        if len(names) > limits.fields:
            fields = f"{len(names)} fields, {limits.fields} allowed (head.fields)"
            raise FetchError("head-limit", fields)
        if b"transfer-encoding" in names and b"content-length" in names:
            raise FetchError("protocol", "not HTTP: both Content-Length and Transfer-Encoding")
        for name, value in zip(names, self.headers, strict=True):
            if name == b"keep-alive":
                self.hint = parse(value[1])

    def _told(self, version: str) -> ConnectionInfo:
        link = self._link
        if self._nth > 1:
            return ConnectionInfo(True, self._nth, None, None, None, link.peer, version, 0)
        return ConnectionInfo(
            False, 1, link.connect_s, link.dns_s, link.tls_s, link.peer, version, 0
        )

    def _explain(self, error: Exception, *, in_body: bool) -> FetchError:
        """httpcore's error in our codes."""
        deadlines = self._call.deadlines
        text = str(error) or type(error).__name__
        if self._link.is_aborted:
            return aborted()
        if isinstance(error, TimeoutError):
            late = f"not done in {deadlines.total} s (timeout.total)"
            return FetchError("total-timeout", late)
        if isinstance(error, FetchError) and error.code == "too-slow":
            floor = f"under {deadlines.rate:g} bytes/s over {deadlines.rate_over:g} s"
            return FetchError("too-slow", f"{floor}, {self._size} in all (timeout.rate)")
        if isinstance(error, FetchError):
            cut = error.code == "truncated" and not in_body
            return FetchError("reset", str(error.args[0])) if cut else error
        if isinstance(error, httpcore.WriteTimeout):
            return FetchError("write-timeout", text)
        if isinstance(error, httpcore.ReadTimeout):
            return FetchError("read-timeout" if in_body else "head-timeout", text)
        if isinstance(error, httpcore.RemoteProtocolError):
            return self._broken(text, in_body=in_body)
        if isinstance(error, (httpcore.LocalProtocolError, h11.LocalProtocolError)):
            return FetchError("bad-request", text)
        beneath = error.args[0] if error.args else None
        return wire_fault(beneath if isinstance(beneath, OSError) else error)

    def _broken(self, text: str, *, in_body: bool) -> FetchError:
        if "Receive buffer too long" in text:
            return FetchError("head-limit", f"{self._link.home.limits.size} bytes (head.bytes)")
        if text.startswith("Server disconnected"):
            whole = "in the middle of the head" if self._link.first_bytes else "without an answer"
            return FetchError("reset", f"the server closed the connection {whole}")
        is_short = any(words in text for words in SHORT)
        if in_body and is_short:
            return FetchError("truncated", f"the body ended after {self._size} bytes")
        seen = glimpse(self._link.first_bytes)
        why = text.partition(":")[0]
        return FetchError("protocol", f"not HTTP: {why}; it began with {seen}")


def aborted() -> FetchError:
    """Told to whoever uses a connection that we close."""
    return FetchError("cancelled", "the client was closed")


class _NetworkStream(httpcore.AsyncNetworkStream):
    """A stream under httpcore's names."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.receive(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.send(buffer, timeout)

    async def aclose(self) -> None:
        self._stream.close()


class _Http11(httpcore.AsyncHTTP11Connection):
    """httpcore's connection, telling when it has become idle."""

    _state_lock: Any
    _h11_state: Any

    def __init__(self, link: CoreLink, limits: HeadLimits) -> None:
        self.MAX_INCOMPLETE_EVENT_SIZE = limits.size
        origin = link.origin
        super().__init__(
            origin=httpcore.Origin(origin.scheme.encode(), origin.host.encode(), origin.port),
            stream=_NetworkStream(link),
        )
        self._state_lock = Unlocked()
        self._link = link
        self._limits = limits
        self.answer: CoreAnswer | None = None

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        """The pool has seen to it."""
        return True

    async def _receive_response_headers(
        self, request: httpcore.Request
    ) -> tuple[bytes, int, bytes, list[tuple[bytes, bytes]], bytes]:
        """As httpcore's, with one deadline for the whole head and a bound on interim ones."""
        within = request.extensions["timeout"]["read"]
        self._link.read_by(within)
        size = 0
        for _ in range(self._limits.interim + 1):
            event: Any = await self._receive_event(timeout=within)
            size += sum(len(name) + len(value) for name, value in event.headers.raw_items())
            if size > self._limits.size:
                raise FetchError("head-limit", f"{self._limits.size} bytes (head.bytes)")
            if event.status_code == 101:
                raise httpcore.RemoteProtocolError("it switched protocols")
            if isinstance(event, h11.Response):
                self._link.read_by(None)
                version = b"HTTP/" + event.http_version
                raw = event.headers.raw_items()
                return version, event.status_code, event.reason, raw, b""
        over = f"over {self._limits.interim} interim answers (head.interim)"
        raise FetchError("head-limit", over)

    async def _response_closed(self) -> None:
        if self.is_closed():
            return
        if self._h11_state.trailing_data[0] or self._link._raw:
            await self.aclose()
            return
        await super()._response_closed()
        if self.is_idle() and self.answer is not None:
            self._link.rested(self.answer)


def request_of(call: Call, head: bytes, timeouts: dict[str, float | None]) -> httpcore.Request:
    """The request whose head would be those bytes."""
    first, *lines = head[:-4].split(b"\r\n")
    method, target, _ = first.split(b" ")
    origin = call.origin
    return httpcore.Request(
        method,
        httpcore.URL(
            scheme=origin.scheme.encode(),
            host=origin.host.encode(),
            port=origin.port,
            target=target,
        ),
        headers=[_field(line) for line in lines],
        content=call.body,
        extensions={"timeout": timeouts},
    )


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b": ")
    return name, value


async def _bytes_of(response: httpcore.Response) -> AsyncIterator[bytes]:
    stream: AsyncIterable[bytes] = response.stream  # type: ignore[assignment]
    async for part in stream:
        yield part
