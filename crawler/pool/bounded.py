"""A bounded pool of connections, for one domain or for many, whatever they speak.

Owns: how many connections a domain may have, which of them serves a request, who waits
for one, the one replay on a connection that had died. Does not own: sockets over all pools
(`sockets`), opening (`route`), joining (`sharing`), the exchange (`http1`, `core`, `http2`).

Invariants: a domain's connections, those being opened and closed included, and requests
where one connection serves several, never exceed its bound; what comes free belongs to
the first waiter before anybody else runs; a waiter that is cancelled passes on what it was
given; a request is replayed at most once: when it was not sent, when the server said that
it had not looked at it, or, an idempotent one, when a reused connection gave no byte; a
domain without connections or waiters costs no memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from crawler.errors import FetchError
from crawler.pool.call import HeadLimits, head_of
from crawler.pool.keepalive import NO_HINT
from crawler.pool.link import Crowded, Unsent, Unserved
from crawler.pool.places import Host, PoolStats, Tally
from crawler.pool.route import open_channel
from crawler.pool.sharing import Sharing, may_join

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.pool.call import Answer, Call, Origin
    from crawler.pool.channel import Channel
    from crawler.pool.keepalive import Hint
    from crawler.pool.link import Home, Link
    from crawler.pool.route import Route
    from crawler.pool.sockets import SocketTable

    LinkType = Callable[[SocketTable, Home, Origin], Link]

__all__ = ["BoundedPool", "PoolStats", "Tally"]

TURNS = 16
"""Times a connection is handed on within its domain while others wait for sockets."""
IDLE_S = 1.0
"""Seconds of idleness from which a connection's death speaks of keep-alive."""


class BoundedPool:
    """At most `connections` connections to each domain, or to each through one proxy.

    `speaking` makes a connection that is still to be opened; `http2`: one over TLS may
    turn out to serve several requests at once. Then requests are what is bounded, an
    origin has one connection, and while nothing is known of the origin one request goes
    alone and the others wait for what it finds.
    """

    def __init__(
        self,
        *,
        route: Route,
        speaking: LinkType,
        connections: int,
        limits: HeadLimits | None = None,
        http2: bool = False,
    ) -> None:
        if connections < 1:
            raise ValueError(f"a pool of {connections} connections serves nobody")
        self.connections = connections
        self.limits = limits or HeadLimits()
        self.tally = Tally()
        self._route = route
        self._speaking = speaking
        self._http2 = http2
        self._sharing = Sharing(route.dialer, http2=http2)
        self._sockets = route.dialer.sockets
        self._hosts: dict[str, Host] = {}
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._peak = 0

    def __repr__(self) -> str:
        return f"<BoundedPool {self.open_connections} open to {len(self._hosts)} domains>"

    @property
    def open_connections(self) -> int:
        """Connections being opened, open, or about to be closed."""
        return sum(len(host.links) for host in self._hosts.values())

    async def send(self, call: Call) -> Answer:
        """Send a request, for the head of its answer. Raises FetchError."""
        begun = self._own_loop().time()
        head = self._head(call)
        replays = 0
        while True:
            if self._is_closed:
                raise _closed()
            host = self._hosts.get(call.origin.domain) or self._enter(call.origin.domain)
            link = self._take(host, call) or await self._acquire(host, call, begun)
            idled_for = link.idled_for
            try:
                answer = await link.exchange(call, head, begun)
            except FetchError as error:
                if self._is_closed:
                    raise _closed() from error
                if isinstance(error, Crowded):
                    continue
                if error.code != "reset" or replays or not self._may_replay(link, call, error):
                    raise
            else:
                self._count(host, answer, idled_for, replays)
                return answer
            replays = 1
            call = call._replace(is_fresh=True)
            self.tally.stale_replays += 1
            if link.is_stale and not link.is_retired:
                self._learn_from(host, link, idled_for)

    def resize(self, connections: int) -> None:
        """Another bound from now on; at least what is under way, which stays. Idle
        connections beyond it are closed."""
        if connections < 1:
            raise ValueError(f"a pool of {connections} connections serves nobody")
        is_less, self.connections = connections < self.connections, connections
        for host in list(self._hosts.values()):
            if not is_less:
                self._serve(host)
            elif host.used > connections:
                idle = [link for stack in host.idle.values() for link in stack]
                for link in idle[: host.used - connections]:
                    link.close()

    def reclaim(self) -> int:
        """Close what is neither idle nor closed although no request is under way.

        To be called only while nobody uses the pool. The number of such orphans.
        """
        orphans = 0
        for host in self._hosts.values():
            for link in host.links:
                if link.idle_at is None and not link.is_closed:
                    orphans += 1
                    link.abort()
        return orphans

    def abort(self) -> None:
        """Close every socket now; no request is taken any more. Idempotent."""
        self._is_closed = True
        for host in list(self._hosts.values()):
            for _, waiter in host.waiters:
                if not waiter.done():
                    waiter.set_exception(_closed())
            for link in list(host.links):
                link.abort()

    async def aclose(self) -> None:
        """`abort`: nothing of a native pool needs to be waited for."""
        self.abort()

    def stats(self) -> PoolStats:
        """This pool, now."""
        hosts = self._hosts.values()
        return PoolStats(
            open=self.open_connections,
            idle=sum(len(stack) for host in hosts for stack in host.idle.values()),
            waiting=sum(len(host.waiters) for host in hosts),
            peak=self._peak,
            **asdict(self.tally),
        )

    # The connections' side

    def done(self, link: Link, hint: Hint, may_last: bool) -> None:
        """A connection has delivered an answer: to the next one with it, or away."""
        host = self._hosts.get(link.origin.domain)
        if host is None or link not in host.links or self._is_closed or not may_last:
            link.close()
            return
        keep = host.keepalive.for_answer(hint)
        if keep <= 0:
            link.close()
            return
        link.expires_at = self._sockets.clock() + keep
        self._offer(host, link, keep)

    def freed(self, link: Link) -> None:
        """One of the requests that a connection served at once has ended, however."""
        host = self._hosts.get(link.origin.domain)
        if host is None or not link.active:
            return
        if self._sharing.leave(host, link):
            self.done(link, NO_HINT, may_last=True)
        self._serve(host)

    def changed(self, link: Link) -> None:
        """A connection takes more or fewer requests at once, or no more."""
        host = self._hosts.get(link.origin.domain)
        if host is None:
            return
        if link.is_retired:
            self._sharing.withdraw(host, link)
        if link.idle_at is not None and host.waiters and may_join(link):
            self._sockets.use(link)
            host.idle[link.origin].remove(link)
            self._offer(host, link, max(0.0, link.expires_at - self._sockets.clock()))
        self._serve(host)

    def lost(self, channel: Channel) -> None:
        """A connection's descriptor is closed: its place is free."""
        link = cast("Link", channel)
        host = self._hosts.get(link.origin.domain)
        if host is None:
            return
        host.links.pop(link, None)
        self._sharing.lose(host, link)
        stack = host.idle.get(link.origin, [])
        if link in stack:
            stack.remove(link)
        self._serve(host)
        self._forget_if_empty(host)

    def peer_closed(self, link: Link) -> None:
        """The server has ended an idle connection."""
        self.tally.peer_closes += 1

    # Inside

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            other = "the pool belongs to another event loop; make one for each loop"
            raise FetchError("bad-request", other)
        return loop

    def _enter(self, domain: str) -> Host:
        host = self._hosts[domain] = Host(domain, self._route.dialer.keepalive(domain))
        return host

    def _forget_if_empty(self, host: Host) -> None:
        is_empty = not (host.links or host.waiters or host.reserved)
        if is_empty and self._hosts.get(host.domain) is host:
            del self._hosts[host.domain]

    def _head(self, call: Call) -> bytes:
        target, extra = self._route.forwarding(call)
        if not self._route.dialer.keeps_alive:
            extra = [*(extra or ()), (b"Connection", b"close")]
        return head_of(call, target=target, extra=extra)

    def _take(self, host: Host, call: Call) -> Link | None:
        """An idle connection that has not grown too old, the one used last."""
        origin = call.origin
        stack = None if call.is_fresh else host.idle.get(origin)
        now = self._sockets.clock() if stack else 0.0
        while stack:
            if stack[-1].streams == 0:
                return None
            link = stack.pop()
            if link.idle_at is None or now >= link.expires_at:
                link.close()
                continue
            link.idled_for = now - link.idle_at
            self._sockets.use(link)
            if link.streams is not None:
                link.active = 1
            return link
        shared = host.shared.get(origin) if host.shared and not host.waiters else None
        if shared is not None and host.used < self.connections and may_join(shared):
            return self._sharing.join(host, shared)
        return None

    async def _acquire(self, host: Host, call: Call, begun: float) -> Link:
        """Open a connection, or wait for one, or for a place to open one."""
        deadlines = call.deadlines
        total_at = None if deadlines.total is None else begun + deadlines.total
        try:
            async with asyncio.timeout_at(total_at):
                is_full = host.used >= self.connections
                if is_full or call.origin in host.alone or call.origin in host.shared:
                    link = await self._wait(host, call, is_full=is_full)
                    if link is not None:
                        return link
                    if self._is_closed:
                        raise _closed()
                    if (idle := self._take(host, call)) is not None:
                        self._come_back(host, call)
                        return idle
                else:
                    self._sharing.go_alone(host, call)
                return await self._open(host, call)
        except TimeoutError as error:
            late = f"no connection in {deadlines.total} s (timeout.total)"
            raise FetchError("total-timeout", late) from error

    async def _wait(self, host: Host, call: Call, *, is_full: bool) -> Link | None:
        for origin, stack in host.idle.items():
            if is_full and origin != call.origin and stack:
                stack[0].close()
                break
        waiter: asyncio.Future[Link | None] = asyncio.get_running_loop().create_future()
        host.waiters.append((call, waiter))
        self._serve(host)
        try:
            async with asyncio.timeout(call.deadlines.pool):
                link = await waiter
        except BaseException as error:
            self._leave(host, call, waiter)
            if isinstance(error, TimeoutError):
                late = f"all {self.connections} connections were busy for {call.deadlines.pool} s"
                raise FetchError("pool-timeout", late) from error
            raise
        host.reserved -= link is None
        return link

    def _leave(self, host: Host, call: Call, waiter: asyncio.Future[Link | None]) -> None:
        """Whoever stops waiting passes on what it had been given."""
        if not waiter.done() or waiter.cancelled():
            host.waiters = deque(entry for entry in host.waiters if entry[1] is not waiter)
        elif waiter.exception() is None:
            link = waiter.result()
            if link is None:
                host.reserved -= 1
                self._come_back(host, call)
            elif link.streams is not None:
                self.freed(link)
            elif not link.is_closed:
                self._offer(host, link, max(0.0, link.expires_at - self._sockets.clock()))
        self._forget_if_empty(host)

    async def _open(self, host: Host, call: Call) -> Link:
        link: Link | None = None

        def make() -> Link:
            nonlocal link
            link = self._speaking(self._sockets, self, call.origin)
            host.links[link] = None
            self._peak = max(self._peak, len(host.links))
            return link

        try:
            await open_channel(make, call.origin, self._route, call.deadlines)
            assert link is not None
            self._take_back(link)
            self._sharing.introduce(host, link)
            return link
        except BaseException as error:
            if link is not None and not self._sockets.holds(link):
                self.lost(link)
            if link is not None and link.handed is not None:
                if isinstance(error, TimeoutError):
                    return link.handed
                self._take_back(link)
            if self._is_closed and isinstance(error, Exception):
                raise _closed() from error
            if isinstance(error, FetchError):
                self.tally.connect_failures += 1
                if error.fault == "domain" and host.alone.get(call.origin) is call:
                    self._sharing.refuse(host, call.origin, error)
            raise
        finally:
            if host.alone:
                self._come_back(host, call)

    def _offer(self, host: Host, link: Link, keep: float) -> None:
        """A connection is free: the first waiter's, else idle.

        While other domains wait for sockets it may be handed on TURNS times; then its
        socket is theirs.
        """
        waiting = self._sockets.wanted
        own = sum(_is_waiting(other) for other in host.links) if waiting else 0
        link.turns = link.turns + 1 if waiting > own else 0
        if link.turns > TURNS:
            link.close()
            return
        while host.waiters:
            call, waiter = host.waiters[0]
            if waiter.done():
                host.waiters.popleft()
            elif call.origin != link.origin or (call.is_fresh and link.streams is None):
                link.close()
                return
            elif link.streams is not None and not may_join(link):
                break
            else:
                host.waiters.popleft()
                link.idled_for = 0.0
                if link.streams is not None:
                    link.active = 1
                waiter.set_result(link)
                return
        if own and not self._http2 and self._hand_to_opener(host, link):
            return
        host.idle.setdefault(link.origin, []).append(link)
        self._sockets.rest(link, keep)

    def _hand_to_opener(self, host: Host, link: Link) -> bool:
        """A free connection serves who waits for a socket to open another like it."""
        for other in host.links:
            if other.origin == link.origin and _is_waiting(other) and other.opening is not None:
                other.handed = link
                other.is_leaving = True
                self._sockets.leaving += 1
                link.idled_for = 0.0
                other.opening.reschedule(link.now())
                return True
        return False

    def _take_back(self, opener: Link) -> None:
        """A socket came at the same moment, or nobody waits any more."""
        handed, opener.handed = opener.handed, None
        if handed is not None:
            self.done(handed, NO_HINT, may_last=not handed.is_closed)

    def _serve(self, host: Host) -> None:
        """Grant free places to those that wait."""
        passed_over = []
        while host.waiters and host.used < self.connections:
            call, waiter = host.waiters.popleft()
            if waiter.done():
                continue
            shared = host.shared.get(call.origin)
            if shared is not None and may_join(shared):
                waiter.set_result(self._sharing.join(host, shared))
            elif shared is not None or call.origin in host.alone:
                passed_over.append((call, waiter))
            else:
                host.reserved += 1
                self._sharing.go_alone(host, call)
                waiter.set_result(None)
        host.waiters.extendleft(reversed(passed_over))

    def _come_back(self, host: Host, call: Call) -> None:
        """What the origin speaks is known now, or for others to find out."""
        if host.alone.get(call.origin) is call:
            del host.alone[call.origin]
        self._serve(host)

    # Inside: after an exchange

    def _may_replay(self, link: Link, call: Call, error: FetchError) -> bool:
        """RFC 9113 §8.7: what a server has not acted upon, any request may ask again."""
        if isinstance(error, Unsent):
            return True
        if isinstance(error, Unserved):
            return call.body is None or isinstance(call.body, bytes)
        return link.is_stale and call.is_repeatable

    def _learn_from(self, host: Host, link: Link, idled_for: float) -> None:
        """A kept connection was dead: others like it may be too, and keep-alive is long.

        One that had not been idle says nothing of keep-alive: its server counts requests.
        """
        if idled_for >= IDLE_S:
            host.keepalive.stale(idled_for)
            self._route.dialer.remember(host.domain, host.keepalive)
        self._close_idle(host)
        link.is_retired = True
        self._sharing.withdraw(host, link)

    def _count(self, host: Host, answer: Answer, idled_for: float, replays: int) -> None:
        if not answer.info.reused:
            self.tally.new_connections += 1
        else:
            self.tally.reused_connections += 1
            host.keepalive.answered_after(idled_for)
        if replays:
            answer.info = answer.info._replace(replays=replays)

    def _close_idle(self, host: Host) -> int:
        idle = [link for stack in host.idle.values() for link in stack]
        for link in idle:
            link.close()
        return len(idle)


def _is_waiting(link: Link) -> bool:
    return link.is_queued and not link.is_leaving


def _closed() -> FetchError:
    return FetchError("cancelled", "the client is closed")
