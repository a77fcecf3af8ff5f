"""How a request travelled, in lines for people; and what to do when it did not arrive.

Owns: the lines of a request, its timings, its connection; the hint of an error where there
is no database. Does not own: fetching (`crawler.single`), who prints them.

Invariants: what came from the web is escaped; a step that did not happen is not named.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from crawler.errors import FetchError, advice
from crawler.plain import title_of
from crawler.urls import canonicalise
from crawler.wording import printable, size

if TYPE_CHECKING:
    from crawler.attempts import Attempt, Fetched
    from crawler.response import Response

__all__ = ["body_line", "connection_line", "hint_of", "request_line", "result_line", "status_line"]

ELSEWHERE = ("crawler why", "crawler errors", "crawler requeue", "crawler fetch")
"""Commands that need a crawl's database, or were just tried."""
HINTS = {
    "robots": "where the site is yours: -s robots.obey=false",
    "protocol": "is it an HTTP port? try the other one of http:// and https://",
    "bad-url": "give http://… or https://…",
    "bad-request": "correct the method, the headers or the proxy",
    "truncated": "the server or a proxy cut it; a second attempt may end well",
    "redirect-loop": "the chain is above; a cookie may be what it waits for",
    "bad-redirect": "its Location is above",
    "decode": "-H 'Accept-Encoding: identity' asks for it as it is",
    "proxy": "is the proxy up? -s domain.proxies=none goes without it",
}


def request_line(attempt: Attempt) -> str:
    """`GET https://example.com/`."""
    through = f"  (through {attempt.proxy})" if attempt.proxy else ""
    return printable(f"{attempt.method} {attempt.url}{through}")


def result_line(attempt: Attempt) -> str:
    """Status or error of one request, and its timings."""
    what = str(attempt.status) if attempt.error is None else f"{attempt.error}: {attempt.message}"
    steps = [
        ("wait", attempt.wait_s if attempt.wait_s >= 0.001 else None),
        ("dns", attempt.dns_s),
        ("connect", attempt.connect_s),
        ("tls", attempt.tls_s),
        ("first byte", attempt.ttfb_s),
        ("body", attempt.body_s),
        ("total", attempt.total_s),
    ]
    times = " · ".join(f"{name} {_ms(spent)}" for name, spent in steps if spent is not None)
    again = ""
    if attempt.pause_s is not None:
        again = f" · again in {attempt.pause_s:.1f} s" if attempt.pause_s >= 0.05 else " · again"
    return printable(f"{what}  {times} ms{again}")


def _ms(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:.1f}" if ms < 9.95 else f"{ms:,.0f}"


def status_line(page: Response, fetched: Fetched) -> str:
    """`HTTP/1.1 200 OK`."""
    version = fetched.last.http_version if fetched.last is not None else None
    try:
        phrase = HTTPStatus(page.status).phrase
    except ValueError:
        phrase = ""
    return f"{version or 'HTTP'} {page.status} {phrase}".rstrip()


def connection_line(attempt: Attempt) -> str:
    """Whom it talked to, on which connection of which client; empty: on none."""
    if attempt.peer is None and attempt.http_version is None:
        return ""
    how = f"reused, request {attempt.nth} on it" if attempt.reused else "new connection"
    replays = f" · sent {attempt.replays + 1} times" if attempt.replays else ""
    of = canonicalise(attempt.url).domain
    client = f"client {attempt.client} of {of}, {attempt.open_connections} open"
    return printable(f"{attempt.peer} · {attempt.http_version} · {how}{replays} · {client}")


def body_line(page: Response, fetched: Fetched) -> str:
    """Size, type, charset and title of a body."""
    parts = [size(len(page.body))]
    kind = (page.content_type or "").partition(";")[0].strip()
    parts.append(kind or "no type")
    if page.encoding is not None:
        parts.append(page.encoding)
    last, coding = fetched.last, page.headers.get("content-encoding")
    if coding and last is not None:
        parts.append(f"{coding}: {size(last.bytes_received)} on the wire")
    if title := title_of(page):
        parts.append(f"“{title}”")
    return printable(" · ".join(parts), 200)


def hint_of(error: FetchError, url: str, *, spider: str | None = None) -> str:
    """What to do about an answer that a crawl would not deliver; empty: nothing is known."""
    code = error.code
    if code.startswith("http-"):
        who = f"spider {spider}" if spider else "a spider"
        return f"statuses = [{code.removeprefix('http-')}] in {who} delivers such pages"
    if code in HINTS:
        return HINTS[code]
    try:
        host = canonicalise(url).domain
    except FetchError:
        host = None
    clauses = advice(code, url=url, host=host).split("; ")
    return "; ".join(
        clause for clause in clauses if not any(command in clause for command in ELSEWHERE)
    )
