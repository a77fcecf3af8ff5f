"""The exception tree, and the stable codes that rows, reports and exit codes use.

    CrawlerError
    ├── UsageError            a person's mistake: exit 2, one line and one hint
    │   ├── SettingsError     an unknown or impossible setting
    │   └── SpiderLoadError   the spider cannot be found, imported or built
    ├── SpiderError           a callback's mistake: the page fails, the crawl goes on
    │   ├── NoMatch           a selector found nothing and no default was given
    │   └── ItemError         what the callback returned cannot become a row
    └── FetchError            the wire's: carries a code of CODES
    StopCrawl                 not an error: a callback raises it to end the run in good order

Owns: classes, codes, whose fault a code is. Does not own: what is done about it (`retry`).
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CODES",
    "Code",
    "CrawlerError",
    "FetchError",
    "ItemError",
    "NoMatch",
    "SettingsError",
    "SpiderError",
    "SpiderLoadError",
    "StopCrawl",
    "UsageError",
    "nearest",
]


class CrawlerError(Exception):
    """Anything this package raises on purpose."""


class UsageError(CrawlerError):
    """A mistake in what was asked for; `hint` is the next command or the line to change."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class SettingsError(UsageError):
    """An unknown setting, or a value it cannot have."""


class SpiderLoadError(UsageError):
    """A spider that cannot be found, imported or built from its arguments."""


class SpiderError(CrawlerError):
    """A callback did something that cannot be carried out."""

    code = "callback"


class NoMatch(SpiderError):
    """`selector` matched nothing on `url`; pass `default=` where that is no mistake."""

    code = "no-match"

    def __init__(self, selector: str, url: str) -> None:
        super().__init__(f"{selector!r} matched nothing on {url}")
        self.selector = selector
        self.url = url


class ItemError(SpiderError):
    """An item that cannot become a row: wrong type, field or name."""

    code = "item-invalid"


class StopCrawl(Exception):
    """Raise in a callback to end the run in good order; the page's results are kept."""


@dataclass(frozen=True, slots=True)
class Code:
    """What an error code means, and whose fault it is."""

    meaning: str
    fault: str
    """domain: charged to the domain, not to the request's attempts; request: an attempt is
    spent; permanent: no attempt would end otherwise; local: ours, nothing is charged."""
    hint: str


CODES: dict[str, Code] = {
    "dns": Code("the host name has no address", "domain", "check the name, or the resolver"),
    "connect-refused": Code("nothing listens on that port", "domain", "is the server up?"),
    "connect-timeout": Code("no connection in time", "domain", "raise timeout.connect"),
    "connect": Code("the connection could not be made", "domain", "check the network"),
    "tls": Code("the certificate or the handshake failed", "domain", "see the message"),
    "tls-timeout": Code("no TLS handshake in time", "domain", "raise timeout.tls"),
    "address": Code("the host's address is refused", "permanent", "see the message"),
    "proxy": Code("the proxy could not be used", "request", "is the proxy up?"),
    "head-timeout": Code("no answer in time", "request", "raise timeout.head"),
    "read-timeout": Code("the body stalled", "request", "raise timeout.read"),
    "write-timeout": Code("the request was not taken in time", "request", "raise timeout.write"),
    "total-timeout": Code("the page took too long", "request", "raise timeout.total"),
    "too-slow": Code("the body came too slowly", "request", "lower timeout.rate"),
    "reset": Code("the connection broke", "request", "the server or a proxy cut it"),
    "protocol": Code("the answer was not HTTP", "request", "is it an HTTP port?"),
    "truncated": Code("the body ended early", "request", "the server or a proxy cut it"),
    "decode": Code("the body's Content-Encoding is broken", "request", "the server lies"),
    "too-large": Code("the body passed a limit", "permanent", "raise the setting it names"),
    "head-limit": Code("the answer's head passed a limit", "permanent", "see the message"),
    "redirect-loop": Code("redirects lead back to themselves", "permanent", "see the chain"),
    "redirect-limit": Code("too many redirects", "permanent", "raise `redirects`"),
    "bad-redirect": Code("a redirect without a usable target", "permanent", "see the target"),
    "bad-url": Code("the URL cannot be fetched", "permanent", "http and https only"),
    "bad-request": Code("the request cannot be sent", "permanent", "see the message"),
    "robots": Code("robots.txt forbids it", "permanent", "robots.obey"),
    "local": Code("this machine ran short of something", "local", "ulimit -n, pool.sockets"),
    "pool-timeout": Code("no connection came free in time", "local", "raise `connections`"),
    "internal": Code("a mistake in crawler itself", "permanent", "report it with its detail"),
    "cancelled": Code("the crawl was stopped meanwhile", "local", "run again to go on"),
}


class FetchError(CrawlerError):
    """A request that got no usable answer; `code` is one of CODES or `http-<status>`."""

    pause_s = 1.0
    """Seconds before it is tried again where it was nobody's fault."""

    def __init__(self, code: str, message: str = "", *, url: str = "") -> None:
        super().__init__(message or CODES[code].meaning)
        self.code = code
        self.url = url

    @property
    def fault(self) -> str:
        """Whose fault it is: domain, request, permanent or local."""
        return CODES[self.code].fault if self.code in CODES else "request"

    def __str__(self) -> str:
        where = f"{self.url}: " if self.url else ""
        return f"{self.code}: {where}{self.args[0]}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The known name most like a mistyped one; None: none is like it."""
    found = get_close_matches(name, list(names), n=1, cutoff=0.6)
    return found[0] if found else None
