"""The stable codes that rows, reports and commands use: what each means, what to do.

Owns: meaning, fault and hint of every code. Does not own: which error has which code (the
part that raises it), what is done about a fault (`retry`).

Invariants: a code never changes its meaning; a hint names a setting or a command that
exists, as it can be typed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from shlex import join, quote
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CODES", "Code", "advice", "code_of"]


@dataclass(frozen=True, slots=True)
class Code:
    """What an error code means, and whose fault it is."""

    meaning: str
    fault: str
    """domain: charged to the domain, not to the request's attempts; request: an attempt is
    spent; permanent: no attempt would end otherwise; local: ours, nothing is charged;
    spider: the callback's, or what it gave; rule: refused before it was sent."""
    hint: str
    """What to do, ready to be pasted, in clauses behind semicolons; ORIGIN, URL, HOST and
    SPIDER stand for the row's own (`advice`)."""

    @property
    def is_worth_again(self) -> bool:
        """A request that failed with it may end otherwise another time."""
        return self.fault in ("domain", "request", "spider", "local")


_TRY = "`crawler doctor HOST` tries it from here"
_LOOK = "`crawler why URL` shows every attempt"

CODES: dict[str, Code] = {
    "dns": Code(
        "the host name has no address",
        "domain",
        "`crawler doctor HOST` asks for it; `-s resolve.HOST=192.0.2.7` gives it one",
    ),
    "connect-refused": Code(
        "nothing listens on that port",
        "domain",
        f"{_TRY}; when it is up again: `crawler requeue --domain HOST`",
    ),
    "connect-timeout": Code(
        "no connection in time", "domain", f"{_TRY}; `-s timeout.connect=30` waits longer"
    ),
    "connect": Code("the connection could not be made", "domain", _TRY),
    "tls": Code(
        "the certificate or the handshake failed",
        "domain",
        "`crawler doctor HOST` shows which check; `-s tls.ca_file=ca.pem` trusts an authority",
    ),
    "tls-timeout": Code(
        "no TLS handshake in time", "domain", f"{_TRY}; `-s timeout.tls=30` waits longer"
    ),
    "address": Code(
        "the host's address cannot be used",
        "permanent",
        "`-s domain.local_address=none` leaves from any address; `crawler doctor HOST` shows them",
    ),
    "proxy": Code(
        "the proxy could not be used",
        "request",
        "is the proxy up? `crawler fetch URL -s domain.proxies=none` goes without it",
    ),
    "head-timeout": Code("no answer in time", "request", "`-s timeout.head=60` waits longer"),
    "read-timeout": Code("the body stalled", "request", "`-s timeout.read=60` waits longer"),
    "write-timeout": Code(
        "the request was not taken in time", "request", "`-s timeout.write=60` waits longer"
    ),
    "total-timeout": Code(
        "the page took too long", "request", "`-s timeout.total=900` waits longer"
    ),
    "too-slow": Code(
        "the body came too slowly", "request", "`-s timeout.rate=0` takes it at any speed"
    ),
    "reset": Code(
        "the connection broke",
        "request",
        f"{_LOOK}; `-s domain.concurrency=1` asks for one page at a time",
    ),
    "protocol": Code(
        "the answer was not HTTP", "request", "is it an HTTP port? `crawler fetch URL` asks it"
    ),
    "truncated": Code(
        "the body ended early", "request", "the server or a proxy cut it: `crawler fetch URL`"
    ),
    "decode": Code(
        "the body's Content-Encoding is broken",
        "request",
        "`crawler fetch URL -H 'Accept-Encoding: identity'` asks for it as it is",
    ),
    "too-large": Code(
        "the body passed a limit",
        "permanent",
        "raise the one it names: `-s body.decoded=64MiB` or `-s body.wire=64MiB`",
    ),
    "head-limit": Code(
        "the answer's head passed a limit",
        "permanent",
        "raise the one it names: `-s head.bytes=256KiB`, `-s head.fields=500`,"
        " `-s head.interim=20`",
    ),
    "redirect-loop": Code(
        "redirects lead back to themselves", "permanent", "`crawler why URL` shows the chain"
    ),
    "redirect-limit": Code("too many redirects", "permanent", "`-s redirects=20` follows more"),
    "bad-redirect": Code(
        "a redirect without a usable target", "permanent", "`crawler why URL` shows where it leads"
    ),
    "bad-url": Code(
        "the URL cannot be fetched",
        "permanent",
        "only http:// and https:// can be; `crawler why URL` shows the page that gave it",
    ),
    "bad-request": Code(
        "the request cannot be sent",
        "permanent",
        "correct its method, headers or proxy in the spider; `crawler why URL` tells what is wrong",
    ),
    "robots": Code(
        "robots.txt forbids it",
        "permanent",
        "`crawler fetch ORIGIN/robots.txt` shows its rules;"
        " where the site is yours: `-s robots.obey=false`",
    ),
    "local": Code(
        "this machine ran short of something",
        "local",
        "`crawler doctor` tells of what; `ulimit -n 4096` or `-s pool.sockets=64` may help",
    ),
    "pool-timeout": Code(
        "no connection came free in time",
        "local",
        "give the transport more `connections`; in a crawl: `-s domain.concurrency=16`",
    ),
    "cancelled": Code(
        "the crawl was stopped meanwhile", "local", "the same `crawler run` goes on with it"
    ),
    "internal": Code(
        "a mistake in crawler itself",
        "permanent",
        "`crawler errors --code internal` has the traceback: report it with that",
    ),
    "callback": Code(
        "the callback, or a hook, raised an error",
        "spider",
        "`crawler errors --code callback` shows the line;"
        " when it is mended: `crawler requeue --code callback`",
    ),
    "no-match": Code(
        "a selector matched nothing",
        "spider",
        "`crawler parse SPIDER URL` shows what matches; `default=` where that is no mistake",
    ),
    "item-invalid": Code(
        "what the callback gave cannot become a row",
        "spider",
        "`crawler parse SPIDER URL` shows the item",
    ),
    "store": Code(
        "the database refused what the page gave",
        "spider",
        "`crawler parse SPIDER URL` shows the item; `crawler errors --code store` shows why",
    ),
    "domain-unreachable": Code(
        "its domain could not be reached, and was given up",
        "domain",
        f"{_TRY}; when it is up again: `crawler requeue --domain HOST`",
    ),
    "scope": Code(
        "the link leads out of `allowed_domains`",
        "rule",
        "add its host to the spider's `allowed_domains`; `crawler why URL` tells who linked it",
    ),
}
"""Every code of an error, of a failed and of a dropped request, but `http-<status>`."""

_ANSWERED = {
    401: "it wants a log-in: `crawler fetch URL` shows what it asks for",
    403: "`crawler fetch URL -s user_agent='NAME (+CONTACT)'` shows whether it minds who asks",
    404: "`crawler why URL` tells who linked it",
    410: "`crawler why URL` tells who linked it",
    429: "`-s domain.delay=5` asks less often",
}

_NEEDS_RUN = re.compile(r"`crawler (?:why|errors|requeue) [^`]*")


def code_of(name: str) -> Code | None:
    """What a code means, `http-<status>` too; None: it is none of ours."""
    kind, _, status = name.partition("-")
    if kind != "http" or not status.isdigit():
        return CODES.get(name)
    number = int(status)
    hint = _ANSWERED.get(number, "`crawler fetch URL` shows what it says")
    if number >= 500:
        hint = f"when it is well again: `crawler requeue --code {name}`"
    return Code(f"the server answered {number}", "request", hint)


def advice(
    name: str,
    *,
    url: str | None = None,
    host: str | None = None,
    spider: str | None = None,
    place: Sequence[str] = (),
    shown: str = "",
) -> str:
    """The hint of a code, with what it is about put in; empty: nothing is left to say.

    `host` may have its port; what is None stays a word in capitals. `place` names the run for
    the commands that need one. `shown` is the command being carried out: nobody is sent to it.
    """
    code = code_of(name)
    clauses = code.hint.split("; ") if code is not None else []
    hint = "; ".join(each for each in clauses if not each.startswith(f"`crawler {shown} "))
    if place:
        hint = _NEEDS_RUN.sub(lambda found: f"{found[0]} {join(place)}", hint)
    if host:
        bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        hint = hint.replace(" HOST", f" {quote(host)}").replace(".HOST", f".{bare}")
    if url:
        parts = urlsplit(url)
        hint = hint.replace(" ORIGIN", f" {quote(f'{parts.scheme}://{parts.netloc}')}")
        hint = hint.replace(" URL", f" {quote(url)}")
    return hint.replace(" SPIDER", f" {quote(spider)}") if spider else hint
