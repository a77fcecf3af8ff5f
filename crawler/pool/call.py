"""A request and its answer as the pool has them, free of any library.

Owns: origins, the bytes of a request's head, what may stand in it, what an answer tells
of its connection. Does not own: sockets, parsing, httpx's objects (`transport`).

Invariants: no byte that ends a line, and no NUL, gets into a head from outside: a call
that would need one is refused before anything is sent (`bad-request`); a proxy's
credentials stand only in heads that go to that proxy.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from crawler.errors import FetchError
from crawler.pool.deadlines import Deadlines

__all__ = [
    "DEFAULT_PORTS",
    "IDEMPOTENT",
    "Answer",
    "Body",
    "Call",
    "ConnectionInfo",
    "HeadLimits",
    "Headers",
    "Origin",
    "head_of",
    "origin_of",
]

Headers = list[tuple[bytes, bytes]]
Body = bytes | AsyncIterable[bytes] | None

DEFAULT_PORTS = {"http": 80, "https": 443}
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
"""Methods that may be sent once more (RFC 9110 §9.2.2)."""
MAX_DIGITS = 19
"""Of a length that a server could mean."""
_TARGET = re.compile(rb"[\x21-\x7e]+")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 §5.6.2."""
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~%!$&'()*+,;=-]+)(?::([0-9]{1,5}))?")


class HeadLimits(NamedTuple):
    """How much may come before the body."""

    size: int = 64 * 1024
    """Bytes of all heads of one answer, and of its trailers."""
    fields: int = 200
    interim: int = 8
    """Informational answers (1xx) before the real one."""


class Origin(NamedTuple):
    """Where a request goes."""

    scheme: str
    host: str
    """As a socket wants it: no brackets."""
    port: int
    domain: str
    """The host, with its port when that is not the scheme's own; brackets kept."""
    authority: bytes
    """The same for the Host header, the dot after a complete name kept."""


@lru_cache(maxsize=1024)
def origin_of(scheme: str, authority: str) -> Origin:
    """The origin of a URL's scheme and authority (`host` or `host:port`).

    Raises FetchError (`bad-request`) for another scheme than http and https, and for what
    is no host; internationalised names must come as IDNA has them.
    """
    found = _AUTHORITY.fullmatch(authority)
    if scheme not in DEFAULT_PORTS or found is None or not authority.isascii():
        raise FetchError("bad-request", f"cannot be sent to {scheme}://{authority}")
    default = DEFAULT_PORTS[scheme]
    port = int(found[2] or default)
    if not 0 < port < 65536:
        raise FetchError("bad-request", f"{port} is no port")
    named = found[1].lower()
    host = named.rstrip(".")
    if not host or (host.startswith("[") and not _is_address(host.strip("[]"))):
        raise FetchError("bad-request", f"{authority} is no host")
    tail = "" if port == default else f":{port}"
    return Origin(scheme, host.strip("[]"), port, host + tail, f"{named}{tail}".encode("ascii"))


def _is_address(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


class Call(NamedTuple):
    """One request."""

    method: bytes
    origin: Origin
    target: bytes
    """Path and query; may be absent in a URL, never here."""
    headers: Headers | Sequence[tuple[bytes, bytes]]
    """Host and the body's framing are added; a Transfer-Encoding given here is left out."""
    body: Body = None
    """An async iterable is sent in chunks and never sent twice."""
    deadlines: Deadlines = Deadlines()
    is_fresh: bool = False
    """A kept connection has failed it: it wants one that is opened for it."""

    @property
    def url(self) -> str:
        """For messages."""
        origin = self.origin
        return f"{origin.scheme}://{origin.domain}{self.target.decode('latin-1')}"

    @property
    def is_repeatable(self) -> bool:
        """True when it may be sent once more unasked."""
        return self.method in IDEMPOTENT and (self.body is None or isinstance(self.body, bytes))


class ConnectionInfo(NamedTuple):
    """The connection that served an answer."""

    reused: bool
    """False: it was opened for this request."""
    nth: int
    """Which request this was on its connection, from 1."""
    connect_s: float | None
    """Seconds it took to open, name, proxy and TLS included; None: reused."""
    dns_s: float | None
    """Seconds of that for the name; None: reused, or an address was given."""
    tls_s: float | None
    """Seconds of that for the last handshake; None: reused, or no TLS."""
    peer: str | None
    """Address of the other end, the proxy's when there is one."""
    http_version: str
    replays: int
    """Times the request was sent once more because a kept connection had died."""


class Answer(Protocol):
    """A response: its head is read, its body comes by iteration. Close it."""

    status: int
    reason: bytes
    """The words after the status; empty: none, as always in HTTP/2."""
    headers: Headers
    info: ConnectionInfo

    def __aiter__(self) -> Answer:
        """The body's bytes as they come, still encoded."""
        ...

    async def __anext__(self) -> bytes:
        """The next bytes. Raises FetchError."""
        ...

    async def aclose(self) -> None:
        """Give the connection back, or close it when the body was not read. Idempotent."""
        ...


@lru_cache(maxsize=1024)
def _is_token(name: bytes) -> bool:
    return _TOKEN.fullmatch(name) is not None


def head_of(call: Call, *, target: bytes | None = None, extra: Headers | None = None) -> bytes:
    """The head as it is sent.

    `target` replaces the call's own (a forwarding proxy wants an absolute one), `extra`
    goes before the call's headers. A Proxy-Authorization of the caller's own is left out:
    a proxy's credentials come from its URL only. Raises FetchError (`bad-request`).
    """
    target = target or call.target
    if not _is_token(call.method) or not _TARGET.fullmatch(target):
        raise FetchError("bad-request", f"not a request line: {call.method!r} {target!r}")
    lines = [b"%b %b HTTP/1.1" % (call.method, target)]
    has_host = has_length = False
    for name, value in extra or ():
        lines.append(b"%b: %b" % (name, value))
    for name, value in call.headers:
        if not _is_token(name):
            raise FetchError("bad-request", f"not a header name: {name!r}")
        lower = name.lower()
        if lower == b"host":
            if has_host:
                raise FetchError("bad-request", "two Host headers")
            has_host = True
        elif lower == b"content-length":
            has_length = True
            _check_length(call.body, value)
        elif lower in (b"proxy-authorization", b"transfer-encoding"):
            continue
        lines.append(b"%b: %b" % (name, value))
    if not has_host:
        lines.insert(1, b"Host: %b" % call.origin.authority)
    if not has_length and call.body is not None:
        lines.append(_length(call.body))
    elif not has_length and call.method in (b"POST", b"PUT", b"PATCH"):
        lines.append(b"Content-Length: 0")
    head = b"\r\n".join(lines)
    if head.count(b"\n") >= len(lines) or head.count(b"\r") >= len(lines) or b"\0" in head:
        raise FetchError("bad-request", "a header value has a line end or NUL in it")
    return head + b"\r\n\r\n"


def _check_length(body: Body, value: bytes) -> None:
    size = len(body) if isinstance(body, bytes) else 0 if body is None else None
    is_number = value.isdigit() and len(value) < MAX_DIGITS
    if not is_number or (size is not None and int(value) != size):
        sizes = "any number" if size is None else f"{size}"
        raise FetchError("bad-request", f"Content-Length {value!r} for {sizes} bytes of body")


def _length(body: bytes | AsyncIterable[bytes]) -> bytes:
    if isinstance(body, bytes):
        return b"Content-Length: %d" % len(body)
    return b"Transfer-Encoding: chunked"
