"""Proxies: what a proxy URL means, and the two handshakes that open a way through one.

Owns: ProxyRoute, CONNECT (RFC 9110 §9.3.6), SOCKS5 (RFC 1928, RFC 1929), the absolute form
of a request target. Does not own: sockets, TLS, deadlines (the caller puts one over the
whole opening), which proxy a request takes.

Invariants: a proxy that is set but cannot be used raises and never means a direct
connection; no message or repr shows a user or password; nothing of the request but the
origin's name and port passes through a handshake; names are looked up by the proxy, never
here; after a handshake not one byte of the proxy's is left unread.
"""

from __future__ import annotations

import base64
import re
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote_to_bytes

from crawler.errors import FetchError, SettingsError
from crawler.pool.call import HeadLimits
from crawler.pool.faults import glimpse
from crawler.urls import canonicalise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from socksio import socks5

__all__ = ["Handshaking", "ProxyRoute", "absolute_target", "connect_tunnel", "socks5_connect"]

LIMITS = HeadLimits()
"""Of a proxy's answer to CONNECT, all interim answers included."""
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:(?P<credentials>[^/?#\\\x00-\x20\x7f\ud800-\udfff]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\\%\x00-\x20\x7f]+)"
    r"(?::(?P<port>[0-9]{0,5}))?/?"
)
_FORM = (
    "write http://, https://, socks5:// or socks5h://, then [user:password@]host[:port]; "
    "percent-encode / ? # and spaces in user and password"
)
_END = re.compile(rb"\n\r?\n")
_HEAD = re.compile(
    rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n\0]*)?\r?\n"
    rb"(?:[!-9;-~]+:[^\r\n\0]*\r?\n)*\r?\n"
)
_STATUSES = {
    403: "it does not allow that host",
    405: "it makes no tunnels",
    502: "it could not reach the host",
    503: "it could not reach the host, or is overloaded",
    504: "the host did not answer it in time",
}
_REPLIES = {
    1: "general SOCKS server failure",
    2: "connection not allowed by ruleset",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}
"""RFC 1928 §6."""
_ADDRESS_BYTES = {1: 4, 4: 16}
"""By address type (RFC 1928 §5); a name, type 3, begins with its length."""


class Handshaking(Protocol):
    """A connection to a proxy before it carries anything else."""

    def write(self, data: bytes) -> None:
        """Send; never waits."""

    async def read(self) -> bytes:
        """The next bytes; empty at the end of the stream."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProxyRoute:
    """A proxy and what it may be told.

    Raises SettingsError for credentials that its protocol cannot carry, and for SOCKS
    where the package socksio is missing.
    """

    scheme: str
    """http, https (TLS to the proxy), socks5 or socks5h. The last two are the same: the
    proxy gets the name. A look-up here would go past the proxy and tell who is asked for."""
    host: str
    """As sent to the resolver: lower case, IDNA; an IPv6 address without brackets."""
    port: int
    username: bytes | None = None
    """None: the proxy is told nothing about who asks."""
    password: bytes = b""

    def __post_init__(self) -> None:
        if self.is_http and b":" in (self.username or b""):
            raise SettingsError(
                "a user with a colon cannot be sent to an HTTP proxy",
                hint="only a SOCKS proxy takes one: socks5://user:password@host:1080",
            )
        if not self.is_socks:
            return
        if find_spec("socksio") is None:
            raise SettingsError(
                "a SOCKS proxy needs the package socksio",
                hint='pip install "poolcrawl[socks]"',
            )
        if self.username == b"" or max(len(self.username or b""), len(self.password)) > 255:
            raise SettingsError(
                "SOCKS5 takes a user of 1 to 255 bytes, a password of up to 255",
                hint="socks5://user:password@host:1080, or without both: socks5://host:1080",
            )

    def __repr__(self) -> str:
        secret = "" if self.username is None else "***@"
        return f"<ProxyRoute {self.scheme}://{secret}{_authority(self.host, self.port)}>"

    @classmethod
    def parse(cls, url: str) -> ProxyRoute:
        """Read `scheme://[user[:password]@]host[:port]`.

        Ports default to 80, 443 and 1080. Raises SettingsError for anything else, with a
        text that shows neither user nor password.
        """
        match = _URL.fullmatch(url)
        if match is None:
            raise SettingsError("not a URL of a proxy", hint=_FORM)
        scheme = match["scheme"].lower()
        if scheme not in _PORTS:
            raise SettingsError(f"a proxy of kind {scheme!r} cannot be used", hint=_FORM)
        port = int(match["port"] or _PORTS[scheme])
        if not 1 <= port <= 65_535:
            raise SettingsError(f"a proxy cannot have port {port}", hint=_FORM)
        user, _, password = (match["credentials"] or "").partition(":")
        return cls(
            scheme=scheme,
            host=_host(match["host"]),
            port=port,
            username=unquote_to_bytes(user) if match["credentials"] else None,
            password=unquote_to_bytes(password),
        )

    @property
    def is_http(self) -> bool:
        """True: requests go by absolute form (http) or CONNECT (https)."""
        return self.scheme in ("http", "https")

    @property
    def is_socks(self) -> bool:
        """True: every connection to an origin begins with `socks5_connect`."""
        return not self.is_http

    def authorization(self) -> bytes | None:
        """Value of Proxy-Authorization (RFC 7617); None: none is to be sent."""
        if self.username is None or self.is_socks:
            return None
        return b"Basic " + base64.b64encode(self.username + b":" + self.password)


def absolute_target(scheme: str, authority: bytes, target: bytes) -> bytes:
    """The request target as a forwarding proxy wants it (RFC 9112 §3.2.2).

    `target` is the origin form, or `*`, which has no path in absolute form (§3.2.4).
    """
    return b"%b://%b%b" % (scheme.encode("ascii"), authority, b"" if target == b"*" else target)


async def connect_tunnel(channel: Handshaking, host: str, port: int, route: ProxyRoute) -> None:
    """Ask an HTTP proxy for a tunnel; on return the channel speaks with the origin.

    Raises FetchError: `proxy` for all that the proxy does wrong, `bad-request` for a host
    that cannot be sent.
    """
    talk = _Dialogue(channel)
    talk.say(_connect_request(host, port, route))
    left = LIMITS.size
    for _ in range(LIMITS.interim + 1):
        head = await _head(talk, left)
        left -= len(head)
        status = _status(head)
        if status > 199 or status == 101:
            break
    else:
        raise FetchError("proxy", f"more than {LIMITS.interim} interim answers to CONNECT")
    if not 200 <= status <= 299:
        raise FetchError("proxy", f"the proxy refused the tunnel: {_refusal(status, route)}")
    talk.end()


async def socks5_connect(channel: Handshaking, host: str, port: int, route: ProxyRoute) -> None:
    """Ask a SOCKS5 proxy for a connection; on return the channel speaks with the origin.

    A name goes to the proxy as it is, an address as an address. Raises FetchError: `proxy`
    for all that the proxy does wrong, `bad-request` for a host that cannot be sent.
    """
    from socksio import socks5

    address = _sendable(host), port
    talk, machine = _Dialogue(channel), socks5.SOCKS5Connection()
    await _authenticate(talk, machine, route)
    with _complaints():
        command = socks5.SOCKS5Command.CONNECT
        machine.send(socks5.SOCKS5CommandRequest.from_address(command, address))
    talk.say(machine.data_to_send())
    frame = await _reply(talk)
    with _complaints():
        machine.receive_data(frame)
    talk.end()


class _Dialogue:
    """What is said to a proxy, and its answers in pieces of the size that is due."""

    def __init__(self, channel: Handshaking) -> None:
        self._channel = channel
        self.unread = bytearray()

    def __repr__(self) -> str:
        return f"<_Dialogue {len(self.unread)} bytes unread>"

    def say(self, data: bytes) -> None:
        try:
            self._channel.write(data)
        except OSError as error:
            raise FetchError("proxy", f"the proxy broke the connection: {error}") from error

    async def more(self) -> None:
        """Wait for at least one byte."""
        try:
            data = await self._channel.read()
        except OSError as error:
            raise FetchError("proxy", f"the proxy broke the connection: {error}") from error
        if not data:
            raise FetchError("proxy", "the proxy closed the connection before it had answered")
        self.unread += data

    async def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self.unread) < size:
            await self.more()
        return self.cut(size)

    def cut(self, size: int) -> bytes:
        """The next `size` bytes, which have arrived."""
        data = bytes(self.unread[:size])
        del self.unread[:size]
        return data

    def end(self) -> None:
        """The origin cannot have spoken yet: what is left would pass for its words."""
        if self.unread:
            raise FetchError(
                "proxy", f"the proxy sent {glimpse(bytes(self.unread))} after its answer"
            )


# CONNECT


def _connect_request(host: str, port: int, route: ProxyRoute) -> bytes:
    authority = _authority(_sendable(host), port).encode("ascii")
    lines = [b"CONNECT %b HTTP/1.1" % authority, b"Host: " + authority]
    if (secret := route.authorization()) is not None:
        lines.append(b"Proxy-Authorization: " + secret)
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _head(talk: _Dialogue, limit: int) -> bytes:
    """The bytes of one answer's head. What cannot become one is refused at once."""
    seen = 0
    while (end := _END.search(talk.unread, max(seen - 2, 0))) is None:
        seen = len(talk.unread)
        if not talk.unread.startswith(b"HTTP/1."[:seen]):
            raise _no_http(bytes(talk.unread))
        if seen >= limit:
            break
        await talk.more()
    if end is None or end.end() > limit:
        raise FetchError("proxy", f"the proxy's answer to CONNECT passed {LIMITS.size} bytes")
    return talk.cut(end.end())


def _status(head: bytes) -> int:
    """Its fields are not read: a 2xx to CONNECT has no body whatever they say."""
    match = _HEAD.fullmatch(head)
    if match is None:
        raise _no_http(head)
    return int(match[1])


def _refusal(status: int, route: ProxyRoute) -> str:
    if status == 407:
        asked = "it wants a user and password"
        words = asked if route.username is None else "its user or password"
    else:
        words = _STATUSES.get(status, "")
    return f"status {status} ({words})" if words else f"status {status}"


def _no_http(data: bytes) -> FetchError:
    return FetchError("proxy", f"the proxy speaks no HTTP: {glimpse(data)}")


# SOCKS5


async def _authenticate(
    talk: _Dialogue, machine: socks5.SOCKS5Connection, route: ProxyRoute
) -> None:
    """Agree on a method (RFC 1928 §3) and go through it (RFC 1929)."""
    from socksio import socks5

    methods = [socks5.SOCKS5AuthMethod.NO_AUTH_REQUIRED]
    if route.username is not None:
        methods.append(socks5.SOCKS5AuthMethod.USERNAME_PASSWORD)
    machine.send(socks5.SOCKS5AuthMethodsRequest(methods))
    talk.say(machine.data_to_send())
    choice = await _versioned(talk, 5)
    if choice[1] == 0xFF:
        wanted = "a user and password" if route.username is None else "another way to log in"
        raise FetchError("proxy", f"the proxy wants {wanted}")
    if choice[1:] not in methods:
        raise FetchError("proxy", f"the proxy chose method {choice[1]}, which was not offered")
    with _complaints():
        machine.receive_data(choice)
    if choice[1:] == socks5.SOCKS5AuthMethod.NO_AUTH_REQUIRED:
        return
    user, password = route.username or b"", route.password
    machine.send(socks5.SOCKS5UsernamePasswordRequest(user, password))
    talk.say(machine.data_to_send())
    verdict = await _versioned(talk, 1)
    with _complaints():
        machine.receive_data(verdict)
    if machine.state != socks5.SOCKS5State.CLIENT_AUTHENTICATED:
        raise FetchError("proxy", "the proxy refused its user or password")


async def _versioned(talk: _Dialogue, version: int) -> bytes:
    """Two bytes, the first of which must be the version."""
    data = await talk.take(2)
    if data[0] != version:
        raise FetchError("proxy", f"the proxy speaks no SOCKS5: {glimpse(data + talk.unread)}")
    return data


async def _reply(talk: _Dialogue) -> bytes:
    """The whole of a reply that grants the connection (RFC 1928 §6).

    A refusal is raised by its code alone, for some proxies send no more of it.
    """
    frame = await _versioned(talk, 5)
    if frame[1]:
        words = _REPLIES.get(frame[1], f"reply {frame[1]}, which has no meaning")
        raise FetchError("proxy", f"the proxy refused the connection: {words}")
    frame += await talk.take(2)
    if frame[3] == 3:
        frame += await talk.take(1)
        rest = frame[4]
    elif frame[3] in _ADDRESS_BYTES:
        rest = _ADDRESS_BYTES[frame[3]]
    else:
        raise FetchError("proxy", f"the proxy replied with an address of type {frame[3]}")
    return frame + await talk.take(rest + 2)


@contextmanager
def _complaints() -> Iterator[None]:
    """Whatever socksio raises is about the proxy, or a name that SOCKS cannot carry."""
    try:
        yield
    except Exception as error:
        words = str(error) or type(error).__name__
        raise FetchError("proxy", f"the SOCKS5 handshake failed: {words}") from error


# Both


def _host(text: str) -> str:
    try:
        return canonicalise(f"http://{text}/").domain.strip("[]")
    except FetchError as error:
        raise SettingsError(f"a proxy cannot be called {text!r}", hint=_FORM) from error


def _sendable(host: str) -> str:
    """A name in IDNA form or an address, without brackets: nothing that ends a line."""
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or not bare.isascii() or not bare.isprintable() or " " in bare:
        raise FetchError("bad-request", f"a proxy cannot be asked for the host {host!r}")
    return bare


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
