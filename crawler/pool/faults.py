"""What went wrong on the wire, said in the crawl's stable codes: one function.

Owns: the mapping from httpcore's, the system's and OpenSSL's errors to FetchError.
Does not own: what is done about it (`crawler.retry`), or the codes (`crawler.errors`).

Invariants: whatever comes in, a FetchError comes out; a FetchError keeps its code; what
is this machine's fault (`local`) is never charged to a domain.
"""

from __future__ import annotations

import errno
import socket
import ssl

import httpcore

from crawler.errors import FetchError

__all__ = ["EXHAUSTED", "fault"]

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""The system has no descriptor or buffer left."""
LOCAL = EXHAUSTED | {errno.EADDRNOTAVAIL}
HTTPCORE = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
)
BROKEN = frozenset((errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED))


def fault(error: BaseException, *, in_body: bool, url: str = "") -> FetchError:
    """The FetchError that `error` means; `in_body`: the head had been read already."""
    if isinstance(error, FetchError):
        return FetchError(error.code, str(error.args[0]), url=error.url or url)
    code, message = _explain(error, in_body=in_body)
    return FetchError(code, message, url=url)


def _explain(error: BaseException, *, in_body: bool) -> tuple[str, str]:
    root = _root(error)
    text = str(root) or type(root).__name__
    if isinstance(root, ssl.SSLCertVerificationError):
        return "tls", f"certificate refused: {root.verify_message}"
    if isinstance(error, httpcore.TimeoutException):
        return _timeout(error, text, in_body=in_body)
    if isinstance(root, OSError) and root.errno in LOCAL:
        return "local", text
    if isinstance(error, httpcore.ConnectError):
        return _connect(root, text)
    if isinstance(error, httpcore.ProxyError):
        return "connect", f"the proxy refused the tunnel: {text}"
    if isinstance(error, httpcore.RemoteProtocolError):
        return _protocol(text, in_body=in_body)
    if isinstance(error, (httpcore.LocalProtocolError, httpcore.UnsupportedProtocol)):
        return "bad-request", text
    if isinstance(root, ssl.SSLError) and not isinstance(root, ssl.SSLEOFError):
        return "tls", f"broken TLS: {root.reason or text}"
    return "reset", text


def _timeout(error: httpcore.TimeoutException, text: str, *, in_body: bool) -> tuple[str, str]:
    if isinstance(error, httpcore.ConnectTimeout):
        return "connect-timeout", text
    if isinstance(error, httpcore.WriteTimeout):
        return "write-timeout", text
    if isinstance(error, httpcore.PoolTimeout):
        return "pool-timeout", "no connection inside the pool although its lease was held"
    return ("read-timeout" if in_body else "head-timeout"), text


def _connect(root: BaseException, text: str) -> tuple[str, str]:
    if isinstance(root, socket.gaierror):
        return "dns", text
    if isinstance(root, ssl.SSLError):
        return "tls", f"the handshake failed: {root.reason or text}"
    if isinstance(root, ConnectionRefusedError):
        return "connect-refused", text
    if isinstance(root, OSError) and root.errno in BROKEN:
        return "reset", text
    return "connect", text


def _protocol(text: str, *, in_body: bool) -> tuple[str, str]:
    if "Receive buffer too long" in text:
        return "too-large", "a head or chunk line passed 65536 bytes (head.bytes)"
    if text.startswith("Server disconnected"):
        return "reset", "the server closed the connection without an answer"
    is_short = "without sending complete message" in text or "incomplete chunked" in text
    return ("truncated" if in_body and is_short else "protocol"), text


def _root(error: BaseException) -> BaseException:
    """The error beneath httpcore's, which keeps it as first argument (its pool erases
    `__cause__`), else as cause."""
    while isinstance(error, HTTPCORE):
        inner = error.args[0] if error.args else None
        beneath = inner if isinstance(inner, BaseException) else error.__cause__
        if beneath is None or isinstance(beneath, TimeoutError):
            break
        error = beneath
    return error
