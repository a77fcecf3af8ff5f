"""Frozen values that cross the storage boundary, and nothing else.

Owns: the shape of everything a store takes and gives back.
Does not own: how it is written (`sqlite`, `memory`), or what it means to a spider.

Instants (`*_at`, `not_before`, `lease_until`) are wall-clock seconds since the epoch;
durations (`*_s`, `delay`) are seconds. Domains travel by name; stores may number them.
The records are msgspec structs: a page makes three or four of them, and a frozen
dataclass of fifteen fields costs ten times as much to build.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from msgspec import Struct

__all__ = [
    "Ack",
    "Claim",
    "Column",
    "Commit",
    "DomainRow",
    "ErrorRow",
    "FetchRow",
    "ItemRow",
    "NewRequest",
    "QueuedRequest",
    "Queues",
    "RunRow",
    "RunSpec",
    "RunState",
    "Scalar",
    "State",
    "StoreStats",
    "Table",
    "Woken",
]

Scalar = str | bytes | int | float | bool | None


class State(IntEnum):
    """Where a request stands. Settled means DONE, FAILED or DROPPED."""

    QUEUED = 0
    SENT = 1
    DONE = 2
    FAILED = 3
    DROPPED = 4

    @property
    def is_settled(self) -> bool:
        """DONE, FAILED or DROPPED."""
        return self >= State.DONE


class RunState(IntEnum):
    """Where a run stands. WAITING and INTERRUPTED runs can be gone on with."""

    RUNNING = 0
    WAITING = 1
    INTERRUPTED = 2
    FINISHED = 3
    FAILED = 4


class RunSpec(Struct, frozen=True, kw_only=True):
    """What identifies a run when it begins."""

    spider: str
    arguments: str = "{}"
    """Canonical JSON: sorted keys, no secrets."""
    settings: str = "{}"
    """JSON of the settings that differ from the defaults."""
    code_hash: str = ""
    started_at: float
    pid: int = 0


class RunRow(Struct, frozen=True, kw_only=True):
    """One run as the store knows it."""

    id: int
    name: str
    """`<spider>-<n>`, e.g. `books-3`: what people type."""
    spider: str
    state: RunState
    started_at: float
    finished_at: float | None = None
    seeded_at: float | None = None
    """When `Spider.start()` had once ended; None: it must be iterated again."""
    arguments: str = "{}"
    settings: str = "{}"
    code_hash: str = ""
    ended_by: str | None = None
    """Why the last session stopped: finished, limit, max-time, spider, signal,
    stopped, waiting, crash, error."""
    pid: int = 0


class NewRequest(Struct, frozen=True, kw_only=True):
    """A discovered URL, offered for insertion: kept once per (run, domain, fingerprint)."""

    fingerprint: bytes
    """16 bytes."""
    domain: str
    url: str
    """Canonical; the URL as written stays in the payload where it differs."""
    method: str = "GET"
    priority: int = 0
    """Higher goes first inside its domain."""
    depth: int = 0
    not_before: float | None = None
    payload: str | None = None
    """JSON of all that the request carries beyond these columns; None: nothing."""
    is_redirect: bool = False
    """The committing page redirected here: stored as `redirect_of` of that page."""
    dropped: str | None = None
    """A reason: the URL was refused and is kept as a dropped row. None: accepted."""


class QueuedRequest(Struct, frozen=True, kw_only=True):
    """A queued row, as `window` hands it out."""

    id: int
    run: int
    domain: str
    url: str
    method: str = "GET"
    priority: int = 0
    depth: int = 0
    attempts: int = 0
    """Attempts already spent; 0: never sent."""
    payload: str | None = None


class Queues(Struct, frozen=True, kw_only=True):
    """What a run has queued, as its counters say."""

    queued: int = 0
    """Rows, those that wait and those under way included."""
    waiting: int = 0
    """Of those, rows that wait for an instant."""
    domains: int = 0
    """Domains with queued rows."""
    longest: tuple[tuple[str, int, int], ...] = ()
    """Domain, its queued rows, those of them that wait: the longest queues first."""


class FetchRow(Struct, frozen=True, kw_only=True):
    """One attempt on the wire."""

    attempt: int
    status: int | None = None
    error: str | None = None
    """A stable code of `crawler.errors`; None: an answer came, whatever its status."""
    decision: str = "deliver"
    """deliver, redirect, retry, give-up, robots."""
    started_at: float
    wait_s: float = 0.0
    """From being ready to being sent."""
    connect_s: float | None = None
    """The whole opening: name, TCP, TLS. None: none was opened (reused, or it failed before)."""
    dns_s: float | None = None
    """Of `connect_s`, looking the name up. None: reused, or nothing was looked up."""
    tls_s: float | None = None
    """Of `connect_s`, the TLS handshake. None: reused, or there was none."""
    ttfb_s: float | None = None
    total_s: float = 0.0
    bytes_received: int = 0
    """Body bytes on the wire, before decoding."""
    reused: bool | None = None
    """None: no connection was had."""
    peer: str | None = None
    """Address of the other end (a proxy's, where there is one). Kept on the fetch that opened
    the connection only: `reused` False."""
    http_version: str | None = None
    """As the answer gives it, e.g. "HTTP/2". None: HTTP/1.1, or no answer came."""
    nth: int | None = None
    """Which request on its connection this was, from 1; None: no connection was had."""
    generation: int | None = None
    """Which client of its domain served it, from 1: one more each time that a client was
    evicted and made anew. None: the first."""
    replays: int = 0
    """Times it was sent again because a kept-alive connection turned out to be dead."""
    proxy: str | None = None
    url: str | None = None
    """None: the request's own URL. Set for robots.txt and for `Spider.fetch`."""


class ItemRow(Struct, frozen=True, kw_only=True):
    """One item of a page, its table declared before or grown on the way."""

    table: str
    columns: tuple[str, ...]
    values: tuple[Scalar, ...]
    ordinal: int
    """Place among the page's items, from 0: the identity of an item without a key."""


class Column(Struct, frozen=True, kw_only=True):
    """A column of an item table; `type` is TEXT, INTEGER, REAL or BLOB."""

    name: str
    type: str = "TEXT"


class Table(Struct, frozen=True, kw_only=True):
    """An item table. `key` names the column unique within a run; None: no such column."""

    name: str
    columns: tuple[Column, ...] = ()
    key: str | None = None


class ErrorRow(Struct, frozen=True, kw_only=True):
    """Something that went wrong with a page and that a person will want to read."""

    code: str
    message: str
    detail: str | None = None
    """The user's frames of a traceback; None: there is none."""


class DomainRow(Struct, frozen=True, kw_only=True):
    """What the crawl has learned about a domain; the latest one of a run is kept."""

    state: str = "ok"
    """ok, waiting, throttled, unreachable, dead, robots."""
    next_at: float | None = None
    delay: float = 0.0
    concurrency: int = 1
    connections: int = 0
    """Most connections seen open at once; the store keeps the maximum."""
    peer_closes: int = 0
    """Idle connections that the server closed, in this process; the store keeps the maximum."""
    generation: int = 0
    """Clients made for the domain, in this process; the store keeps the maximum."""


class Commit(Struct, frozen=True, kw_only=True):
    """All that one page changed, applied as one transaction or not at all.

    With `request=None` it carries only links, counters and the seeding mark (seeds), and
    is never stale.
    """

    run: int
    domain: str = ""
    epoch: int = 0
    """Of the claim under which the page was fetched; a newer claim makes it stale."""
    request: int | None = None
    state: State = State.DONE
    """QUEUED: the request is put back, with `attempts` and `not_before`."""
    reason: str | None = None
    not_before: float | None = None
    attempts: int = 0
    at: float
    fetches: tuple[FetchRow, ...] = ()
    items: tuple[ItemRow, ...] = ()
    links: tuple[NewRequest, ...] = ()
    errors: tuple[ErrorRow, ...] = ()
    duplicates: int = 0
    """Links not offered because the store already knew them: counted only."""
    pace: DomainRow | None = None
    seeded: bool = False
    """`Spider.start()` has ended: sets the run's `seeded_at`."""
    size: int = 0
    """Bytes of items and links, about: the writer closes a group by it."""


class Ack(Struct, frozen=True, kw_only=True):
    """What became of one Commit."""

    applied: bool
    """False: stale (or refused, see `error`); nothing of it was kept."""
    inserted: tuple[int | None, ...] = ()
    """Per link: the id of the row that this commit queued; None: known already or dropped."""
    error: str | None = None
    """The store refused the page's data and marked the request failed with this message."""


class Claim(Struct, frozen=True, kw_only=True):
    """The right to work on a domain until `lease_until`; a later claim ends it."""

    domain: str
    epoch: int
    lease_until: float


class Woken(Struct, frozen=True, kw_only=True):
    """Answer of `wake`: where waiting rows became ready, and when the next ones will."""

    ready: tuple[tuple[int, str], ...] = ()
    """(run, domain) pairs with newly ready rows."""
    next_at: float | None = None
    """Wall-clock instant of the earliest row still waiting; None: none waits."""


class StoreStats(Struct, frozen=True, kw_only=True):
    """Counters of a store since it was opened."""

    commits: int = 0
    """Pages applied."""
    groups: int = 0
    """Transactions that carried them."""
    stale: int = 0
    refused: int = 0
    known: int = 0
    """Entries of the known-URL cache."""
    commit_p50_s: float = 0.0
    commit_p99_s: float = 0.0
    behind_s: float = 0.0
    """How long the oldest page handed over has waited for its transaction; 0: none waits."""
    bytes: int = 0
    """Of the file and its log; 0: there is no file."""
    extra: dict[str, Any] = {}
