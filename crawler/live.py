"""What a running crawl looks like at one instant: the figures that every view shows. Pure.

Owns: the records, their JSON. Does not own: gathering them (`gauges`), drawing them
(`crawler.cli`), the file that carries them to another process (`storage.beside`).

Invariants: counts are of the run and not of one session where the database knows them;
what is unknown is None and never a guess; texts from the web are as they came, so whoever
shows them escapes them.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

__all__ = ["Answered", "DomainLive", "Live", "RunLive", "decode", "encode"]


class DomainLive(Struct, frozen=True, kw_only=True):
    """One domain of the session."""

    domain: str
    state: str
    """ok, waiting (for its pace), in-line (for a client), throttled, unreachable, failing
    (no request of late brought an answer but 5xx), robots (its robots.txt is being fetched),
    paused, stopping (its queue is left for later), idle."""
    wait_s: float | None = None
    """Seconds until its next start, when it waits for that; None: it does not."""
    queued: int = 0
    """Rows queued in the database, those under way included."""
    active: int = 0
    """Requests on the wire."""
    concurrency: int = 1
    """Requests that may be on the wire now."""
    limit: int = 1
    """Its domain.concurrency."""
    delay: float = 0.0
    """Seconds between two starts."""
    requests: int = 0
    """Requests that ended since the session met it; of thousands without work it forgets some."""
    rate: float = 0.0
    """Answers per second over the last 10 s."""
    p50_s: float | None = None
    """Half of the answers' first bytes came within this; None: no answer yet."""
    p95_s: float | None = None
    s2xx: int = 0
    """Answers by class of status, without those of robots.txt; so the next three."""
    s3xx: int = 0
    s4xx: int = 0
    s5xx: int = 0
    errors: int = 0
    """Requests that ended without an answer."""
    problem: str = ""
    """The code that came last and was no success; empty: none came, or 100 answers ago."""
    problem_count: int = 0
    """How often that code came."""
    problem_text: str = ""
    """What was said with it."""


class RunLive(Struct, frozen=True, kw_only=True):
    """One run of the session."""

    run: str
    spider: str
    state: str
    """running, paused, stopping."""
    seconds: float
    """Since the session began with it."""
    pages: int
    """Pages stored since then whose callback did not fail; redirects are none."""
    pages_before: int
    """The same of earlier sessions of the run."""
    items: int
    errors: int
    """Of the failed ones, pages whose callback raised, since the session began."""
    failed: int
    """Requests given up, and pages whose callback failed: rows in the state failed."""
    retries: int
    waiting: int
    """Rows that wait for an instant (a retry, `not_before`)."""
    queued: int
    """Rows not settled, waiting ones and those under way included."""
    rate: float
    """Pages per second over the last 10 s."""
    item_rate: float
    """Items per second over the last 10 s."""
    net: float | None = None
    """Rows a second by which the queue grows (below 0: shrinks), over the last two minutes;
    None: too early to say."""
    spark: tuple[float, ...] = ()
    """Pages per second of the last 15 s cells, newest last, at most 20."""
    limit: int | None = None
    """Pages after which it ends; None: no bound."""
    ends_in_s: float | None = None
    """An honest estimate; None: there is none yet, or the queue grows."""
    ends_by: str = ""
    """What sets the end (`shop.example, 33m at its delay of 1 s`), or why there is no
    estimate (`growing 1.4 URLs a page`); empty: nothing to say."""


class Answered(Struct, frozen=True, kw_only=True):
    """What became of a steering command."""

    number: int
    """Its place in the control file, from 1."""
    is_done: bool
    text: str
    """What was done, or why not."""


class Live(Struct, frozen=True, kw_only=True):
    """One session at one instant."""

    at: float
    """Wall clock."""
    pid: int
    database: str
    runs: tuple[RunLive, ...]
    domains: tuple[DomainLive, ...]
    """Those that matter most, first: trouble, then the longest queues; at most 50. Of many
    thousand domains these are chosen every few seconds, and counted by state as often."""
    domains_total: int
    states: dict[str, int]
    """State to number of domains, all of them."""
    on_wire: int
    concurrency: int
    """Requests that may be on the wire, of all domains."""
    clients: int
    clients_limit: int
    open_connections: int
    idle_connections: int
    sockets_limit: int
    reuse: float
    """Share of requests on a connection that was open already, 0 to 1."""
    evictions: int
    evictions_per_minute: float
    descriptors: int | None
    """Open files of the process; None: the system does not say."""
    descriptors_limit: int
    memory: int | None
    """Resident bytes; None: the system does not say."""
    database_bytes: int
    """File and log."""
    behind_s: float
    """How long the oldest page handed to the store has waited for its transaction."""
    unfinished: int
    """Pages fetched and not yet stored."""
    cpu: float
    """Processor seconds per second, over the last 10 s."""
    shortage: str | None = None
    """What this machine lacks while nothing can be sent; None: nothing."""
    answers: tuple[Answered, ...] = ()
    """The last 100 steering commands."""


def encode(live: Live) -> bytes:
    """As JSON."""
    return msgspec.json.encode(live)


def decode(data: bytes) -> Live:
    """Raises msgspec.DecodeError for what is none."""
    return msgspec.json.decode(data, type=Live)
