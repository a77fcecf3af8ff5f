"""What one domain has of connections, and what a pool counts.

Owns: the places of a domain: which are taken, by what, and who waits for one. Does not
own: who gets a place, and when (`bounded`).

Invariants: `used` never tells less than is under way: a connection takes a place from
before it is opened until its descriptor is closed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from crawler.pool.call import Call, Origin
    from crawler.pool.keepalive import KeepAlive
    from crawler.pool.link import Link

__all__ = ["Host", "PoolStats", "Tally"]


@dataclass(slots=True)
class Tally:
    """Counters that several pools share."""

    new_connections: int = 0
    """Answers on a connection opened for them."""
    reused_connections: int = 0
    stale_replays: int = 0
    peer_closes: int = 0
    """Idle connections that the server closed."""
    connect_failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """One pool at one instant, and its counters."""

    open: int
    """Connections, those being opened included."""
    idle: int
    waiting: int
    """Requests that wait for a connection."""
    peak: int
    """Most connections to one domain at once."""
    new_connections: int
    reused_connections: int
    stale_replays: int
    peer_closes: int
    connect_failures: int


class Host:
    """The connections of one domain."""

    __slots__ = (
        "alone",
        "domain",
        "extra",
        "idle",
        "keepalive",
        "links",
        "reserved",
        "shared",
        "waiters",
    )

    def __init__(self, domain: str, keepalive: KeepAlive) -> None:
        self.domain = domain
        self.keepalive = keepalive
        self.links: dict[Link, None] = {}
        """Being opened, open, or closed with the descriptor still there."""
        self.reserved = 0
        """Places granted to waiters that have not yet begun to open."""
        self.idle: dict[Origin, list[Link]] = {}
        """Last one in, first one out: what is not needed grows old."""
        self.waiters: deque[tuple[Call, asyncio.Future[Link | None]]] = deque()
        """What a waiter gets: a connection, or None, the right to open one."""
        self.shared: dict[Origin, Link] = {}
        """The one connection of an origin that serves several requests at once."""
        self.alone: dict[Origin, Call] = {}
        """Who opens an origin's first connection: what it speaks is not known yet."""
        self.extra = 0
        """Requests beyond the first on connections that serve several."""

    @property
    def used(self) -> int:
        """Places taken: connections, or requests where one connection serves several."""
        return len(self.links) + self.reserved + self.extra

    def __repr__(self) -> str:
        return f"<Host {self.domain}, {len(self.links)} open, {len(self.waiters)} waiting>"
