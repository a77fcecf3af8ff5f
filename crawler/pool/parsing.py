"""One answer read from bytes: RFC 9112 on llhttp, without a socket.

Owns: framing, limits on heads and trailers, what in an answer ends a connection.
Does not own: waiting, deadlines, sockets (`http1`); decoding (`decode`).

Lenient as browsers are: bare LF in heads, folded and odd header values, spaces after a
chunk's size, one length said several times. Strict in framing: two different lengths, or
a length beside chunks, are refused.

Invariants: no more than `limits.size` bytes of heads are ever given to the parser, and no
more than that without a byte of body after it; trailers never become headers; whatever
comes after the end is surplus, and a connection with surplus is not used again.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from crawler.errors import FetchError
from crawler.pool.faults import glimpse
from crawler.pool.keepalive import NO_HINT, parse

if TYPE_CHECKING:
    from crawler.pool.call import Headers, HeadLimits

__all__ = ["Phase", "Reading"]

LINE_ENDS = 16
"""Bytes at the end of an answer in which line ends are looked for."""
BODILESS = frozenset((204, 304))
"""Statuses without a body, whatever the head says (RFC 9112 §6.3); so is any to HEAD."""
FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"keep-alive"))
_BLANK = re.compile(rb"^HTTP/1[^\n]*\n[ \t]", re.M)
"""A folded line with no field before it: llhttp might take it for the end of the head."""
_LENGTHS = re.compile(rb"^content-length[ \t]*:[ \t]*([^\r\n]*?)[ \t]*\r?\n", re.I | re.M)


class Phase(IntEnum):
    """How far an answer has come."""

    HEAD = 0
    BODY = 1
    WHOLE = 2


class Reading:
    """An answer as its bytes come; `feed` until `phase` is WHOLE or `error` is set."""

    __slots__ = (
        "_barren",
        "_fed",
        "_interim",
        "_is_bodiless",
        "_is_chunked",
        "_is_interim",
        "_is_lenient",
        "_is_until_close",
        "_limits",
        "_parser",
        "_room",
        "error",
        "headers",
        "hint",
        "http_version",
        "is_lasting",
        "is_surplus",
        "parts",
        "phase",
        "reason",
        "size",
        "status",
    )

    def __init__(self, limits: HeadLimits, *, is_bodiless: bool = False) -> None:
        self._limits = limits
        self._is_bodiless = is_bodiless
        self._parser: HttpResponseParser | None = _parser(self)
        """Refers to us: let go at the end, so that no collector is needed."""
        self._room = limits.size
        self._fed: list[bytes] = []
        """What came of the head, for a second, more lenient look."""
        self._interim = 0
        self._is_interim = False
        self._is_chunked = False
        self._is_lenient = False
        self._is_until_close = False
        self._barren = 0
        self.phase = Phase.HEAD
        self.status = 0
        self.reason = b""
        """The words after the status; nobody need trust them."""
        self.headers: Headers = []
        self.http_version = ""
        self.parts: list[bytes] = []
        """The body's bytes that nobody has taken yet."""
        self.size = 0
        """Bytes of body so far."""
        self.error: Exception | None = None
        self.hint = NO_HINT
        """What the answer says of its connection's keep-alive."""
        self.is_lasting = False
        """The connection may serve another request once this answer is whole."""
        self.is_surplus = False
        """Bytes came after the end."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} {self.phase.name}, {self.size} bytes>"

    def feed(self, data: bytes) -> None:
        """Take what came."""
        if self.phase is not Phase.HEAD:
            before = self.size
            self._parse(data)
            self._count_barren(len(data) if self.size == before else 0)
            self._look_behind(data)
            return
        room = self._room
        self._fed.append(data[:room])
        self._parse(data[:room])
        if self.phase is Phase.HEAD and self.error is None:
            self._room = room - len(data)
            if self._room < 0:
                self._refuse_head(f"no end after {self._limits.size} bytes (head.bytes)")
        elif len(data) > room and self.error is None:
            self._parse(data[room:])
        self._look_behind(data)

    def end(self, *, is_clean: bool) -> None:
        """The stream has ended; `is_clean`: not cut off under TLS."""
        self._parser = None
        if self.error is not None or self.phase is Phase.WHOLE:
            return
        if self.phase is Phase.HEAD:
            where = "in the middle of the head" if self._fed else "without an answer"
            self.error = FetchError("reset", f"the server closed the connection {where}")
        elif not self._is_until_close:
            self.error = FetchError("truncated", f"the body ended after {self.size} bytes")
        elif not is_clean:
            cut = f"TLS was cut off after {self.size} bytes without its closing alert"
            self.error = FetchError("truncated", cut)
        else:
            self.phase = Phase.WHOLE

    # llhttp's side

    def on_message_begin(self) -> None:
        """A message begins; after the answer's end it is one that nobody asked for."""
        if self.phase is Phase.WHOLE:
            self.is_surplus = True

    def on_status(self, words: bytes) -> None:
        """Words of the status line."""
        self.reason += words

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field is complete: a header, or a trailer, which is dropped."""
        if self.phase is Phase.HEAD:
            self.headers.append((name, value))
        elif b"\0" in value:
            self._break("NUL in a trailer")

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self.phase is not Phase.HEAD:
            return
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            self._begin_interim()
            return
        self.status = status
        self.http_version = self._parser.get_http_version()
        if len(self.headers) > self._limits.fields:
            fields = f"{len(self.headers)} fields, {self._limits.fields} allowed (head.fields)"
            self._refuse_head(fields)
        self._frame()
        if self.error is None:
            self.phase = Phase.WHOLE if self._has_no_body() else Phase.BODY
            self._fed = []

    def on_body(self, data: bytes) -> None:
        """Bytes of the body."""
        if self.phase is Phase.BODY:
            self.parts.append(data)
            self.size += len(data)
        else:
            self.is_surplus = True

    def on_message_complete(self) -> None:
        """The end, of an interim answer or of the real one."""
        if self._is_interim:
            self._is_interim = False
            self.headers = []
            self.reason = b""
        elif self.phase is Phase.BODY:
            self.phase = Phase.WHOLE
        elif self._is_chunked and self.status not in BODILESS:
            self.is_surplus = True  # to HEAD: chunks that the parser, unlike us, expected

    # Inside

    def _parse(self, data: bytes) -> None:
        if self._parser is None:
            self.is_surplus = True
            return
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._break("it switched protocols, which nobody asked for")
        except HttpParserError as error:
            if self.phase is Phase.WHOLE:
                self.is_surplus = True
            elif not self._feed_again():
                self._break(str(error))

    def _frame(self) -> None:
        """Where the body ends, and whether the connection outlives it (RFC 9112 §6.3, §9.3)."""
        has_length = is_chunked = is_close = is_kept = False
        if b"\0" in self.reason:
            self._break("NUL in the status line")
        for name, value in self.headers:
            if b"\0" in value:
                self._break(f"NUL in the header {glimpse(name)}")
            lower = name.lower()
            if lower not in FRAMING:
                continue
            if lower == b"content-length":
                has_length = True
            elif lower == b"transfer-encoding":
                is_chunked = value.strip().lower() == b"chunked"
                if not is_chunked:
                    self._break(f"transfer coding {glimpse(value)}")
            elif lower == b"keep-alive":
                self.hint = parse(value)
            else:
                tokens = [token.strip() for token in value.lower().split(b",")]
                is_close = is_close or b"close" in tokens
                is_kept = is_kept or b"keep-alive" in tokens
        self._is_chunked = is_chunked
        self.is_lasting = not is_close and (self.http_version == "1.1" or is_kept)
        if self.http_version == "1.0" and is_chunked:
            self.is_lasting = False  # RFC 9112 §6.1: its framing is not to be trusted
        if not has_length and not is_chunked and not self._has_no_body():
            self._is_until_close = True
            self.is_lasting = False

    def _has_no_body(self) -> bool:
        return self._is_bodiless or self.status in BODILESS

    def _begin_interim(self) -> None:
        self._is_interim = True
        self._interim += 1
        if self._interim > self._limits.interim:
            self._refuse_head(f"over {self._limits.interim} interim answers (head.interim)")

    def _count_barren(self, size: int) -> None:
        """Chunk extensions and trailers end, or the answer does."""
        self._barren = self._barren + size if size else 0
        if self._barren > self._limits.size and self.phase is Phase.BODY:
            endless = f"{self._barren} bytes without one of the body (head.bytes)"
            self.error = self.error or FetchError("head-limit", endless)

    def _feed_again(self) -> bool:
        """Look at a refused head once more as browsers would; False: they refuse it too."""
        if self.phase is not Phase.HEAD or self._is_lenient:
            return False
        self._is_lenient = True
        fed = b"".join(self._fed)
        head = fed[: _end_of_head(fed) + 1]
        if head.count(b"\r") != head.count(b"\r\n") or _BLANK.search(head):
            return False
        self._parser = _parser(self, lenient_headers=True)
        self._interim, self._is_interim, self.headers, self.reason = 0, False, [], b""
        self._parse(_with_one_length(fed))
        return True

    def _look_behind(self, data: bytes) -> None:
        """llhttp swallows line ends after an answer: they are surplus too."""
        if self.error is not None or self.phase is Phase.WHOLE:
            self._parser = None
        if self.phase is not Phase.WHOLE or self.is_surplus:
            return
        if self.parts and not self._is_chunked:
            # A body of line ends, and line ends after it, look the same.
            self.is_surplus = not data.endswith(self.parts[-1])
            self.is_lasting = self.is_lasting and bool(self.parts[-1].strip(b"\r\n"))
        else:
            ends = data[-LINE_ENDS:]
            ends = ends[len(ends.rstrip(b"\r\n")) :]
            self.is_surplus = ends.count(b"\n") > 2 or ends.endswith(b"\r")

    def _refuse_head(self, why: str) -> None:
        self.error = self.error or FetchError("head-limit", why)

    def _break(self, why: str) -> None:
        if self.error is None:
            seen = f"; it began with {glimpse(b''.join(self._fed))}" if self._fed else ""
            self.error = FetchError("protocol", f"not HTTP: {why}{seen}")


def _parser(reading: Reading, *, lenient_headers: bool = False) -> HttpResponseParser:
    parser = HttpResponseParser(reading)
    parser.set_dangerous_leniencies(
        lenient_headers=lenient_headers,
        lenient_optional_cr_before_lf=True,
        lenient_spaces_after_chunk_size=True,
    )
    return parser


def _end_of_head(data: bytes) -> int:
    """Where the first head's empty line begins; all of it: there is none."""
    return min(
        (at for at in (data.find(b"\n\r\n"), data.find(b"\n\n")) if at >= 0), default=len(data)
    )


def _with_one_length(data: bytes) -> bytes:
    """The bytes with one Content-Length in place of several equal ones (RFC 9110 §8.6)."""
    size = _end_of_head(data)
    head, rest = data[: size + 1], data[size + 1 :]
    values = [part.strip() for said in _LENGTHS.findall(head) for part in said.split(b",")]
    if len(values) < 2 or len(set(values)) > 1:
        return data
    return _LENGTHS.sub(b"", head) + b"Content-Length: %b\r\n" % values[0] + rest
