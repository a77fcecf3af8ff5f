"""A connection that serves requests, and what it asks of the pool it belongs to.

Owns: the contract between pool and connection: one exchange at a time (or, where the
protocol can, several), then either rest or the end. Does not own: which connection serves
whom (`bounded`), how a request is spoken (`http1`, `core`).

Invariants: `done` is called once for each answer that came whole, after its last byte was
looked at; a connection whose exchange failed is closed and calls only `lost`. Where it
serves several at once, `freed` is called once for each, whole or not, instead of `done`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from crawler.errors import FetchError
from crawler.pool.channel import Channel

if TYPE_CHECKING:
    from crawler.pool.call import Answer, Call, HeadLimits, Origin
    from crawler.pool.channel import ChannelOwner
    from crawler.pool.keepalive import Hint

__all__ = ["Crowded", "Home", "Link", "Unsent", "Unserved"]


class Unserved(FetchError):
    """A `reset` of a request that the server has not acted upon (RFC 9113 §8.7)."""


class Unsent(Unserved):
    """A `reset` of a request of which not a byte was sent: any may be sent elsewhere."""


class Crowded(Unsent):
    """The server has just lowered how many requests it takes: back to those that wait."""


class Home(Protocol):
    """The pool's side of a connection."""

    limits: HeadLimits

    def done(self, link: Link, hint: Hint, may_last: bool) -> None:
        """An answer came whole; `may_last`: the connection can serve again."""

    def freed(self, link: Link) -> None:
        """One of the requests that a connection served at once has ended, however."""

    def changed(self, link: Link) -> None:
        """A connection takes more or fewer requests at once, or no more."""

    def lost(self, channel: Channel) -> None:
        """The descriptor is closed."""

    def peer_closed(self, link: Link) -> None:
        """The server has ended a connection that was idle."""


class Link(Channel):
    """A connection to an origin, or to the proxy that forwards to it."""

    __slots__ = (
        "_received_before",
        "active",
        "expires_at",
        "handed",
        "home",
        "idled_for",
        "is_retired",
        "origin",
        "streams",
        "turns",
    )

    def __init__(self, owner: ChannelOwner, home: Home, origin: Origin) -> None:
        super().__init__(owner)
        self.on_lost = home.lost
        self.home = home
        self.origin = origin
        self.expires_at = 0.0
        """Instant after which it must not serve again."""
        self.idled_for = 0.0
        """Seconds it had been idle before its present request."""
        self.streams: int | None = None
        """Requests it can serve at once; None: one after another."""
        self.active = 0
        """Requests it serves, where it can serve several; kept by the pool."""
        self.is_retired = False
        """It ends with the requests it still serves."""
        self.turns = 0
        """Times it was handed on while others waited for sockets."""
        self.handed: Link | None = None
        """A free connection that came before this one had a socket."""
        self._received_before = 0

    def ready(self) -> None:
        """The way is open: what is spoken on it is known from now on."""

    @property
    def is_stale(self) -> bool:
        """True when it had served before and gave no byte this time."""
        return self.requests > 1 and self.received == self._received_before

    async def exchange(self, call: Call, head: bytes, begun: float) -> Answer:
        """Send a request, `head` as it is, and wait for the head of its answer.

        `begun`: instant from which the total deadline counts. Raises FetchError; the
        connection is closed then, and when the waiting is cancelled; one that serves
        several requests ends only this one.
        """
        raise NotImplementedError

    def eof_received(self) -> None:
        """The peer will send no more."""
        self._tell_if_idle()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The descriptor is closed."""
        self._tell_if_idle()
        super().connection_lost(exc)

    def _tell_if_idle(self) -> None:
        if self.idle_at is not None:
            self.home.peer_closed(self)
