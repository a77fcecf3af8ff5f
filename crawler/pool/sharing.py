"""Connections that serve several requests at once, among the places of their domain.

Owns: who may join such a connection, who goes alone to find out what an origin speaks,
what each of its requests takes of the domain's places. Does not own: the queue and who is
served from it (`bounded`), streams (`http2`).

Invariants: an origin has one connection that others may join; a second one, opened while
nobody knew of the first, serves its own request and then takes the first's place or ends;
a request beyond the first on a connection is counted in `Host.extra` exactly while it has
its place; one that is told to go is joined by nobody.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from crawler.errors import FetchError

if TYPE_CHECKING:
    from crawler.pool.call import Call, Origin
    from crawler.pool.dialer import Dialer
    from crawler.pool.link import Link
    from crawler.pool.places import Host

__all__ = ["Sharing", "may_join"]


def may_join(link: Link) -> bool:
    """Whether one more request may be sent on it now."""
    return not (link.is_closed or link.is_retired) and link.active < (link.streams or 0)


class Sharing:
    """What a pool does with connections that serve several; without HTTP/2, nothing."""

    def __init__(self, dialer: Dialer, *, http2: bool) -> None:
        self._dialer = dialer
        self._http2 = http2

    def __repr__(self) -> str:
        return f"<Sharing {'over HTTP/2' if self._http2 else 'nothing'}>"

    def join(self, host: Host, link: Link) -> Link:
        """One more request on a connection that serves several."""
        if link.idle_at is not None:
            host.idle[link.origin].remove(link)
            self._dialer.sockets.use(link)
        host.extra += link.active > 0
        link.active += 1
        return link

    def leave(self, host: Host, link: Link) -> bool:
        """A request on it has ended; True: the connection is free to rest."""
        link.active -= 1
        if link.active:
            host.extra -= 1
            return False
        if link.is_closed:
            return False
        if link.is_retired or host.shared.setdefault(link.origin, link) is not link:
            link.close()
            return False
        return True

    def lose(self, host: Host, link: Link) -> None:
        """The descriptor is closed: whatever it served has ended."""
        if link.active:
            host.extra -= link.active - 1
            link.active = 0
        self.withdraw(host, link)

    def withdraw(self, host: Host, link: Link) -> None:
        """Nobody joins it any more."""
        if host.shared.get(link.origin) is link:
            del host.shared[link.origin]

    def go_alone(self, host: Host, call: Call) -> None:
        """Others wait until this call knows what its origin speaks."""
        origin = call.origin
        if self._http2 and origin.scheme == "https" and not self._dialer.is_plain(origin):
            host.alone[origin] = call

    def introduce(self, host: Host, link: Link) -> None:
        """A connection is open and has said what it speaks."""
        if not self._http2:
            return
        link.ready()
        if link.origin.scheme == "https":
            self._dialer.remember_plain(link.origin, is_plain=link.streams is None)
        if link.streams is None:
            return
        link.active = 1
        if not link.is_retired:
            host.shared.setdefault(link.origin, link)

    def refuse(self, host: Host, origin: Origin, error: FetchError) -> None:
        """Whoever waited for the one that went alone shares its failure."""
        entries, host.waiters = host.waiters, deque()
        for call, waiter in entries:
            if call.origin != origin:
                host.waiters.append((call, waiter))
            elif not waiter.done():
                waiter.set_exception(FetchError(error.code, str(error.args[0])))
