"""Names to addresses, for one event loop, and one policy that sees every address.

Owns: the cache of answers, the threads that look names up, static overrides, the order in
which a host's addresses are tried, the question whether they may be connected to at all.
Does not own: sockets, the connect (`eyeballs`), what the policy refuses.

Invariants: `resolve` gives only literals, and none of an answer of which the policy refused
one; a host has at most one look-up under way, whoever asks and whoever is cancelled; at most
`limit` hosts and 64 addresses of each are remembered; the default executor of the loop is
never used, and no look-up, however stuck, holds up `close` or the end of the interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from crawler.errors import FetchError, SettingsError
from crawler.pool.faults import EXHAUSTED

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Address", "LookUp", "Policy", "Resolver", "ResolverStats", "interleave"]

Policy: TypeAlias = Callable[[str, int, str], str | None]
"""(host, port, address literal) → why it may not be connected to; None: it may."""
LookUp: TypeAlias = Callable[[str, int], Iterable[tuple[Any, ...]]]
"""(host in lower case, port) → as socket.getaddrinfo answers; blocks, runs on a thread."""

MOST_ADDRESSES = 64
"""Of one host; an answer's further ones are neither judged nor tried."""
JITTER = 0.1
BRIEF_S = 1.0
"""Longest that a temporary failure is remembered: enough to spare a burst."""
TEMPORARY = frozenset((socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_MEMORY, socket.EAI_SYSTEM))


class Address(NamedTuple):
    """Where to connect: `sockaddr` as socket.connect takes it, its host a literal."""

    family: int
    sockaddr: tuple[Any, ...]

    @property
    def literal(self) -> str:
        """The address without its port."""
        return str(self.sockaddr[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverStats:
    """Names since the start, and now. Literals are not counted."""

    hits: int
    """Answered from the cache."""
    misses: int
    """Not in the cache: looked up, or read from the overrides."""
    negative_hits: int
    """A failure answered from the cache."""
    joined: int
    """Answered by a look-up that another caller had begun."""
    failures: int
    """Look-ups that found no address."""
    looking_up: int
    """Look-ups under way or waiting for a thread."""
    look_up_s: float
    """Seconds that look-ups took, waiting for a thread included."""
    cached: int
    """Hosts remembered, failures included."""


class Resolver:
    """Looks names up, each once, and remembers the answers.

    `overrides`: host → address literal, or several, in a list or separated by commas; they
    win over the cache and the system. `policy` judges every address; None: all may be connected to.
    `threads`: look-ups at the same time. `positive_s` (± 10 %) and `negative_s`: seconds an
    answer and a failure are remembered, a temporary failure 1 s at most; 0: not at all.
    `limit`: hosts remembered, the least recently used goes. `look_up`: blocking; None:
    socket.getaddrinfo. `clock` gives seconds.

    Raises SettingsError for an override that is none.
    """

    def __init__(
        self,
        *,
        overrides: Mapping[str, str | Sequence[str]] = {},
        policy: Policy | None = None,
        threads: int = 16,
        positive_s: float = 300.0,
        negative_s: float = 30.0,
        limit: int = 10_000,
        look_up: LookUp | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if threads < 1 or limit < 1:
            raise ValueError(f"{threads} threads and {limit} hosts resolve nothing")
        self._overrides = dict(_override(host, value) for host, value in overrides.items())
        self._policy = policy
        self._threads = _Threads(threads)
        self._positive_s = positive_s
        self._negative_s = negative_s
        self._limit = limit
        self._look_up = look_up or _getaddrinfo
        self._clock = clock
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._flights: dict[str, asyncio.Future[_Answer | None]] = {}
        self._is_closed = False
        self._hits = 0
        self._misses = 0
        self._negative_hits = 0
        self._joined = 0
        self._failures = 0
        self._look_up_s = 0.0

    def __repr__(self) -> str:
        return f"<Resolver {len(self._answers)} cached, {len(self._flights)} being looked up>"

    async def resolve(self, host: str, port: int) -> tuple[Address, ...]:
        """The addresses of `host`, at least one, in the order in which to try them.

        Families alternate (RFC 8305 §4), the start moves on with each call, and addresses
        that were demoted come last. A literal, [v6] in brackets too, is its own address.

        Raises socket.gaierror when the name has none, OSError (EMFILE and its like) when
        there was no descriptor to ask with, FetchError `address` when the policy refuses
        one of them or the host has a zone id, FetchError `cancelled` once closed.
        """
        if self._is_closed:
            raise FetchError("cancelled", f"{host}: the resolver is closed")
        if "%" in host:
            raise FetchError("address", f"{host}: an address with a zone id is refused")
        literal = _parse(host)
        if literal is not None:
            found: Sequence[Address] = (literal,)
        else:
            answer = await self._answer(host, port)
            if answer.failure is not None:
                raise answer.failure.fresh()
            found = answer.in_turn()
        self._judge(host, port, found)
        return tuple(
            Address(family, (literal, port, *rest)) for family, (literal, _, *rest) in found
        )

    def demote(self, host: str, address: Address) -> None:
        """`address` failed to connect: it comes last until the host's answer expires, or
        until all of the host's addresses were demoted."""
        answer = self._answers.get(host.lower())
        if answer is not None:
            answer.demote(_without_port(address))

    def forget(self, host: str) -> None:
        """Look the host up anew next time: none of its addresses could be connected to."""
        self._answers.pop(host.lower(), None)

    def close(self) -> None:
        """Give up all look-ups, without waiting for those under way. Idempotent.

        Whoever waits for one gets FetchError `cancelled`.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._threads.close()
        for flight in self._flights.values():
            if not flight.done():
                flight.set_result(None)
        self._flights.clear()

    def stats(self) -> ResolverStats:
        """Names since the start, and now."""
        return ResolverStats(
            hits=self._hits,
            misses=self._misses,
            negative_hits=self._negative_hits,
            joined=self._joined,
            failures=self._failures,
            looking_up=len(self._flights),
            look_up_s=self._look_up_s,
            cached=len(self._answers),
        )

    async def _answer(self, host: str, port: int) -> _Answer:
        key = host.lower()
        if known := self._recall(key):
            return known
        flight = self._flights.get(key)
        if flight is not None:
            self._joined += 1
        else:
            self._misses += 1
            if found := self._overrides.get(key.removesuffix(".")):
                return self._remember(key, _Answer(found))
            flight = self._begin(key, port)
        # Shielded: this caller may be cancelled, the look-up serves the others and the cache.
        answer = await asyncio.shield(flight)
        if answer is None:
            raise FetchError("cancelled", f"{host}: the resolver was closed meanwhile")
        return answer

    def _recall(self, key: str) -> _Answer | None:
        answer = self._answers.get(key)
        if answer is None:
            return None
        if answer.expires_at <= self._clock():
            del self._answers[key]
            return None
        self._answers.move_to_end(key)
        if answer.failure is None:
            self._hits += 1
        else:
            self._negative_hits += 1
        return answer

    def _begin(self, key: str, port: int) -> asyncio.Future[_Answer | None]:
        loop = asyncio.get_running_loop()
        flight: asyncio.Future[_Answer | None] = loop.create_future()
        begun = self._clock()

        def land(answer: _Answer) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]
                self._threads.freed()
                self._look_up_s += self._clock() - begun
                self._failures += answer.failure is not None
                flight.set_result(self._remember(key, answer))

        def work() -> None:
            answer = _ask(self._look_up, key, port)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(land, answer)

        self._threads.submit(work)
        self._flights[key] = flight
        return flight

    def _remember(self, key: str, answer: _Answer) -> _Answer:
        lasts = self._lasts(answer.failure)
        if lasts > 0:
            answer.expires_at = self._clock() + lasts
            self._answers[key] = answer
            self._answers.move_to_end(key)
            if len(self._answers) > self._limit:
                self._answers.popitem(last=False)
        return answer

    def _lasts(self, failure: _Failure | None) -> float:
        if failure is None:
            return self._positive_s * random.uniform(1 - JITTER, 1 + JITTER)
        if failure.is_ours:
            return 0
        return min(BRIEF_S, self._negative_s) if failure.is_temporary else self._negative_s

    def _judge(self, host: str, port: int, found: Iterable[Address]) -> None:
        if self._policy is None:
            return
        for address in found:
            if reason := self._policy(host, port, address.literal):
                raise FetchError("address", f"{host}: {address.literal} is refused: {reason}")


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """The families in turn, beginning with the first one's (RFC 8305 §4); within a family
    the order stays."""
    lanes = zip_longest(*_by_family(addresses))
    return [address for rank in lanes for address in rank if address is not None]


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a look-up gave nothing, without the traceback of anybody who was told."""

    kind: type[OSError]
    code: int
    text: str

    @property
    def is_ours(self) -> bool:
        return not issubclass(self.kind, socket.gaierror)

    @property
    def is_temporary(self) -> bool:
        return self.code in TEMPORARY

    def fresh(self) -> OSError:
        return self.kind(self.code, self.text)


@dataclass(slots=True)
class _Answer:
    """What is known of one host: addresses (with port 0), or a failure."""

    addresses: tuple[Address, ...]
    failure: _Failure | None = None
    expires_at: float = 0.0
    turn: int = 0
    demoted: dict[Address, None] = field(default_factory=dict)
    """In the order of their failures."""

    def in_turn(self) -> list[Address]:
        """Each family begins one further than last time; the demoted ones come last."""
        fresh = [address for address in self.addresses if address not in self.demoted]
        lanes = [_turned(lane, self.turn) for lane in _by_family(fresh)]
        self.turn += 1
        return [*interleave(chain.from_iterable(lanes)), *self.demoted]

    def demote(self, address: Address) -> None:
        if address in self.addresses:
            self.demoted.pop(address, None)
            self.demoted[address] = None
            if len(self.demoted) == len(self.addresses):
                self.demoted.clear()


class _Threads:
    """At most `limit` threads, begun when needed, that nobody waits for.

    Those of concurrent.futures are joined at the end of the interpreter, which a stuck
    look-up would put off for a minute. All methods are called on the loop's thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._begun = 0
        self._busy = 0
        """Pieces of work handed in and not yet `freed`."""
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(self, work: Callable[[], None]) -> None:
        """Raises FetchError `local` when not one thread could be begun."""
        if self._begun < min(self._busy + 1, self._limit):
            name = f"crawler-dns-{self._begun}"
            thread = threading.Thread(target=_labour, args=(self._work,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                if self._begun == 0:
                    raise FetchError("local", "no thread can be begun to look up names") from error
            else:
                self._begun += 1
        self._work.put(work)
        self._busy += 1

    def freed(self) -> None:
        self._busy -= 1

    def close(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._work.get_nowait()
        for _ in range(self._begun):
            self._work.put(None)
        self._begun = 0


def _labour(work: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (piece := work.get()) is not None:
        piece()
        del piece


def _ask(look_up: LookUp, host: str, port: int) -> _Answer:
    """Look up, on a thread; whatever happens there becomes an answer."""
    try:
        try:
            addresses = _usable(look_up(host, port))
        except socket.gaierror:
            # Without a free descriptor every name is unknown: then this raises EMFILE.
            socket.socket().close()
            raise
    except BaseException as error:
        return _Answer((), _failure(error, host))
    if not addresses:
        return _Answer((), _Failure(socket.gaierror, socket.EAI_NONAME, f"no address: {host}"))
    return _Answer(addresses)


def _failure(error: BaseException, host: str) -> _Failure:
    if isinstance(error, UnicodeError):
        return _Failure(socket.gaierror, socket.EAI_NONAME, f"not a host name: {host}")
    if isinstance(error, socket.gaierror) and error.errno is not None:
        return _Failure(socket.gaierror, error.errno, error.strerror or "unknown host")
    if isinstance(error, OSError) and error.errno in EXHAUSTED:
        return _Failure(OSError, error.errno, error.strerror or str(error))
    # A resolver library that is not there (ECONNREFUSED) is not a server that refuses.
    text = f"the look-up failed: {type(error).__name__}: {error}"
    return _Failure(socket.gaierror, socket.EAI_FAIL, text)


def _getaddrinfo(host: str, port: int) -> Iterable[tuple[Any, ...]]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _usable(answers: Iterable[tuple[Any, ...]]) -> tuple[Address, ...]:
    """The IP addresses among getaddrinfo's answers, each once, literals only."""
    found: dict[Address, None] = {}
    for family, _, _, _, sockaddr in answers:
        literal = _parse(str(sockaddr[0]))
        if literal is not None and literal.family == family:
            found[Address(family, (literal.literal, 0, *sockaddr[2:]))] = None
    return tuple(interleave(found)[:MOST_ADDRESSES])


def _parse(text: str) -> Address | None:
    """An IPv4 or IPv6 literal as address with port 0; None: it is neither."""
    bare = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else None
    for family, literal in ((socket.AF_INET, text), (socket.AF_INET6, bare or text)):
        try:
            spelled = socket.inet_ntop(family, socket.inet_pton(family, literal))
        except (OSError, ValueError):
            continue
        return Address(family, (spelled, 0) if family == socket.AF_INET else (spelled, 0, 0, 0))
    return None


def _override(host: str, value: str | Sequence[str]) -> tuple[str, tuple[Address, ...]]:
    key = host.lower().removesuffix(".")
    if not key or _parse(key) is not None:
        raise SettingsError(
            f"resolve: {host!r} is not a host name", hint="-s resolve.shop.test=127.0.0.1"
        )
    parts = value.split(",") if isinstance(value, str) else value
    is_list = isinstance(parts, list | tuple) and all(isinstance(part, str) for part in parts)
    found = [_parse(part.strip()) for part in parts] if is_list else [None]
    addresses = tuple(dict.fromkeys(address for address in found if address is not None))
    if None in found or not addresses:
        raise SettingsError(
            f"resolve: {host!r} = {value!r} is not an IP address",
            hint="one address, or several: a list, or separated by commas",
        )
    return key, addresses


def _without_port(address: Address) -> Address:
    literal, _, *rest = address.sockaddr
    return Address(address.family, (literal, 0, *rest))


def _by_family(addresses: Iterable[Address]) -> list[list[Address]]:
    lanes: dict[int, list[Address]] = {}
    for address in addresses:
        lanes.setdefault(address.family, []).append(address)
    return list(lanes.values())


def _turned(lane: list[Address], turn: int) -> list[Address]:
    start = turn % len(lane)
    return lane[start:] + lane[:start]
