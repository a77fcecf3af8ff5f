"""What a test's server answers: values, and every misbehaviour by its name.

Owns: `Reply` and its bytes on the wire, `Received` (a request as the server saw it), the
ready-made routes `fail_first` and `files`. Does not own: sockets and time (`site`).

Invariant: an answer is a value; the same answer is the same bytes every time.
"""

from __future__ import annotations

import gzip
import mimetypes
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote

__all__ = ["Handler", "Received", "Reply", "Route", "fail_first", "files"]

_CHUNK = 1024
_HTML = "text/html; charset=utf-8"
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server does with one request; the default is an empty 200.

    `headers` join Content-Length, which stays away when they name one themselves.
    `after`: seconds before the first byte. `chunked`: chunks of 1 KiB and no length.
    `sent`: body bytes that really leave (as encoded); None: all of them.
    `end`: what then happens to the connection: kept, closed in order, reset, or left open
    without another byte until somebody closes it.
    `raw`: sent as it is in place of head and body; None: a proper answer.
    """

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    after: float = 0.0
    chunked: bool = False
    sent: int | None = None
    end: Literal["keep", "close", "reset", "hang"] = "keep"
    raw: bytes | None = None

    @classmethod
    def html(cls, text: str, status: int = 200) -> Reply:
        """A page in UTF-8."""
        return cls(status=status, body=text.encode(), headers=(("Content-Type", _HTML),))

    @classmethod
    def text(cls, text: str, status: int = 200) -> Reply:
        """Plain text in UTF-8, for robots.txt and the like."""
        kind = ("Content-Type", "text/plain; charset=utf-8")
        return cls(status=status, body=text.encode(), headers=(kind,))

    @classmethod
    def code(cls, status: int, headers: Mapping[str, str] | None = None) -> Reply:
        """A status with a one-line body that names it."""
        page = cls.html(f"<title>{status}</title><h1>{_phrase(status)}</h1>", status)
        return replace(page, headers=(*page.headers, *(headers or {}).items()))

    @classmethod
    def redirect(cls, to: str, status: int = 302) -> Reply:
        """A redirect; `to` is sent as given, relative or absolute."""
        return cls.code(status, {"Location": to})

    @classmethod
    def big(cls, size: int) -> Reply:
        """A page of exactly `size` bytes (at least 8)."""
        return cls.html("<p>" + "x" * (size - 7) + "</p>")

    @classmethod
    def garbage(cls, raw: bytes = b"\x00\xffthis is not HTTP\r\n\r\n") -> Reply:
        """Bytes that are no HTTP answer, then an orderly close."""
        return cls(raw=raw, end="close")

    @classmethod
    def hang(cls) -> Reply:
        """Not one byte, until the client or the site closes the connection."""
        return cls(raw=b"", end="hang")

    def slow(self, seconds: float) -> Reply:
        """The same answer, its first byte after `seconds`."""
        return replace(self, after=seconds)

    def truncated(self, sent: int) -> Reply:
        """The same answer with `sent` bytes of its body, then an orderly close."""
        return replace(self, sent=sent, end="close")

    def reset(self, sent: int) -> Reply:
        """The same answer with `sent` bytes of its body, then a TCP reset."""
        return replace(self, sent=sent, end="reset")

    def stalled(self, sent: int) -> Reply:
        """The same answer with `sent` bytes of its body, then silence."""
        return replace(self, sent=sent, end="hang")

    def gzip(self) -> Reply:
        """The same answer compressed, whatever the client said it accepts."""
        coding = ("Content-Encoding", "gzip")
        packed = gzip.compress(self.body, mtime=0)
        return replace(self, body=packed, headers=(*self.headers, coding))

    def encode(self, *, head_only: bool = False) -> bytes:
        """The bytes on the wire; `head_only` for HEAD, which keeps the length field."""
        if self.raw is not None:
            return self.raw
        lines = [f"HTTP/1.1 {self.status} {_phrase(self.status)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        bodiless = self.status < 200 or self.status in (204, 304)
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif not bodiless and not any(n.lower() == "content-length" for n, _ in self.headers):
            lines.append(f"Content-Length: {len(self.body)}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if head_only or bodiless:
            return head
        return head + (_chunks(self.body) if self.chunked else self.body)[: self.sent]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as the server saw it.

    `at`: the loop's monotonic time when the request was complete. `path`: the target as
    sent, with its query. `host`: the Host field in lower case, "" without one. `headers`:
    names in lower case, in order. `connection`: 1 for the first one the site accepted.
    `address`: "ip:port" that was connected to; `number`: its place among the site's.
    """

    at: float
    method: str
    host: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int
    address: str
    number: int

    def header(self, name: str) -> str | None:
        """The first field of that name in lower case; None when it was not sent."""
        return next((value for key, value in self.headers if key == name), None)


Handler: TypeAlias = Callable[[Received], "Reply | Awaitable[Reply]"]
Route: TypeAlias = Reply | Handler


def fail_first(times: int, status: int = 503, then: Route | None = None) -> Handler:
    """Answers `status` to the first `times` requests of each URL, afterwards `then` (200)."""
    seen: Counter[tuple[int, str]] = Counter()
    after = then if then is not None else Reply.html("<title>fine again</title>")

    def answer(request: Received) -> Reply | Awaitable[Reply]:
        seen[request.number, request.path] += 1
        if seen[request.number, request.path] <= times:
            return Reply.code(status)
        return after if isinstance(after, Reply) else after(request)

    return answer


def files(folder: str | Path) -> Handler:
    """Serves the tree under `folder`; a directory answers with its index.html."""
    root = Path(folder).resolve()

    def answer(request: Received) -> Reply:
        asked = unquote(request.path.split("?")[0]).lstrip("/")
        path = (root / asked.replace("\0", "")).resolve()
        if path.is_dir():
            path /= "index.html"
        if not path.is_relative_to(root) or not path.is_file():
            return Reply.code(404)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return Reply(body=path.read_bytes(), headers=(("Content-Type", kind),))

    return answer


def _phrase(status: int) -> str:
    return _PHRASES.get(status, "Unknown")


def _chunks(body: bytes) -> bytes:
    parts = [body[n : n + _CHUNK] for n in range(0, len(body), _CHUNK)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
