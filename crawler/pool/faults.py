"""What went wrong on the wire, said in the crawl's stable codes.

Owns: the mapping from the system's, the resolver's and OpenSSL's errors to FetchError.
Does not own: what is done about it (`crawler.retry`), the codes (`crawler.errors`), what a
parser finds wrong (`http1`, `core`).

Invariants: whatever comes in, a FetchError comes out; a FetchError keeps its code; what
is this machine's fault (`local`) is never charged to a domain.
"""

from __future__ import annotations

import errno
import socket
import ssl

from crawler.errors import FetchError

__all__ = ["EXHAUSTED", "connect_fault", "glimpse", "tls_fault", "wire_fault"]

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""The system has no descriptor or buffer left."""
LOCAL = EXHAUSTED | {errno.EADDRNOTAVAIL}
BROKEN = frozenset((errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED))
GLIMPSE = 40
"""Bytes of a strange answer that a message shows."""


def connect_fault(error: BaseException) -> FetchError:
    """What a connect, or the look-up of its name, died of."""
    if isinstance(error, FetchError):
        return error
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno in LOCAL:
        code = "local"
    elif isinstance(error, socket.gaierror):
        code = "dns"
    elif isinstance(error, ConnectionRefusedError):
        code = "connect-refused"
    elif isinstance(error, OSError) and error.errno in BROKEN:
        code = "reset"
    else:
        code = "connect"
    return _caused(FetchError(code, text), error)


def tls_fault(error: BaseException, host: str) -> FetchError:
    """What a handshake with `host` died of; says which check failed."""
    if isinstance(error, FetchError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        found = FetchError("tls", f"certificate refused: {error.verify_message}")
    elif isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        found = FetchError("tls", f"the handshake failed: {error.reason or error}")
    elif isinstance(error, OSError) and error.errno in LOCAL:
        found = FetchError("local", str(error))
    else:
        found = FetchError("tls", f"{host} closed the connection during the handshake")
    return _caused(found, error)


def wire_fault(error: BaseException) -> FetchError:
    """What an open connection died of."""
    if isinstance(error, FetchError):
        return error
    text = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return _caused(FetchError("tls", f"broken TLS: {error.reason or text}"), error)
    code = "local" if isinstance(error, OSError) and error.errno in LOCAL else "reset"
    return _caused(FetchError(code, text), error)


def glimpse(data: bytes) -> str:
    """The first bytes of what came instead of HTTP, safe to print."""
    return repr(data[:GLIMPSE])[1:] + ("…" if len(data) > GLIMPSE else "")


def _caused(found: FetchError, by: BaseException) -> FetchError:
    found.__cause__ = by
    return found
