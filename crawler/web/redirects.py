"""What a redirect asks for (RFC 9110 §15.4). Pure.

Owns: the target, the method and body that go there, loops and limits.
Does not own: following it: the target is queued like any other URL.

Invariants: only http and https targets; a chain never visits one URL twice and never has
more than the limit of hops; credentials and other headers set on the request travel only
within one origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crawler.errors import FetchError
from crawler.urls import canonicalise, join

if TYPE_CHECKING:
    from crawler.urls import Target

__all__ = ["REDIRECTS", "Hop", "next_hop"]

REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Hop(NamedTuple):
    """Where a redirect leads."""

    target: Target
    method: str
    keeps_body: bool
    keeps_headers: bool
    """False: the origin changed, only what every request carries may go along."""
    via: tuple[str, ...]
    """The URLs of the chain so far, oldest first."""


def next_hop(
    *, url: str, method: str, status: int, location: str | None, via: tuple[str, ...], limit: int
) -> Hop:
    """The hop that an answer with a status of REDIRECTS asks for.

    303 always, and 301 and 302 after POST, become GET without a body (§15.4.2 to §15.4.4).
    Raises FetchError: bad-redirect, redirect-loop, redirect-limit (`redirects`).
    """
    chain = (*via, url)
    if not location or not location.strip():
        raise FetchError("bad-redirect", f"status {status} without a Location", url=url)
    try:
        target = canonicalise(join(url, location))
    except FetchError as error:
        raise FetchError("bad-redirect", f"to {location[:200]!r}: {error}", url=url) from error
    if target.url in chain:
        raise FetchError("redirect-loop", " → ".join((*chain, target.url)), url=url)
    if len(chain) > limit:
        shown = " → ".join((*chain, target.url))
        raise FetchError(
            "redirect-limit", f"redirects={limit}, seen {len(chain)}: {shown}", url=url
        )
    becomes_get = (status == 303 and method != "HEAD") or (
        status in (301, 302) and method == "POST"
    )
    return Hop(
        target=target,
        method="GET" if becomes_get else method,
        keeps_body=not becomes_get,
        keeps_headers=target.origin == canonicalise(url).origin,
        via=chain,
    )
