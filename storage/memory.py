"""The store in dicts: for tests, notebooks and crawls whose queue need not outlive them.

Owns: the same rows, rules and counters as the SQLite store, without fetch and problem
rows, and without a bound on what it holds. Does not own: durability.

Invariant: every method runs without an `await` inside, so each is one transaction.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from storage.group import KEPT
from storage.ledger import Ledger
from storage.records import (
    Ack,
    Claim,
    Column,
    QueuedRequest,
    Queues,
    RunRow,
    RunState,
    State,
    StoreStats,
    Table,
    Woken,
)
from storage.schema import COUNTERS, is_reserved
from storage.store import LEASE_S, StorageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from storage.records import Commit, ItemRow, NewRequest, RunSpec, Scalar

__all__ = ["MemoryStore"]

Place = tuple[int, int]


class _Row(Struct, eq=False):
    """A request."""

    id: int
    place: Place
    offer: NewRequest
    state: State
    attempts: int = 0
    not_before: float | None = None

    @property
    def rank(self) -> tuple[int, int]:
        return -self.offer.priority, self.id


class _Domain(Struct, eq=False):
    """A domain and its lease."""

    id: int
    name: str
    owner: str | None = None
    epoch: int = 0
    lease_until: float = 0.0


class _Items(Struct, eq=False):
    """An item table: rows by run and key, or by run, request and ordinal."""

    table: Table
    rows: dict[tuple[Scalar, ...], dict[str, Scalar]]


class MemoryStore:
    """A Store that forgets everything when it is closed."""

    path = None

    def __init__(self) -> None:
        self._runs: dict[int, RunRow] = {}
        self._domains: dict[str, _Domain] = {}
        self._rows: dict[int, _Row] = {}
        self._by_key: dict[tuple[Place, bytes], _Row] = {}
        self._accepted: set[tuple[int, bytes]] = set()
        self._ready: defaultdict[Place, list[tuple[int, int]]] = defaultdict(list)
        self._waiting: defaultdict[int, dict[int, _Row]] = defaultdict(dict)
        self._sent: defaultdict[int, dict[int, _Row]] = defaultdict(dict)
        self._items: dict[str, _Items] = {}
        self._notes: defaultdict[int, dict[str, str]] = defaultdict(dict)
        self._ledger = Ledger()
        self._last_row = 0
        self._dropped: defaultdict[int, int] = defaultdict(int)
        self._applied = self._stale = self._refused = 0

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._runs)} runs, {len(self._rows)} requests>"

    async def begin(self, spec: RunSpec) -> RunRow:
        """Insert a run."""
        n = 1 + sum(run.spider == spec.spider for run in self._runs.values())
        run = RunRow(
            id=len(self._runs) + 1,
            name=f"{spec.spider}-{n}",
            spider=spec.spider,
            state=RunState.RUNNING,
            started_at=spec.started_at,
            arguments=spec.arguments,
            settings=spec.settings,
            code_hash=spec.code_hash,
            pid=spec.pid,
        )
        self._runs[run.id] = run
        return run

    async def resume(self, run: int, *, settings: str, code_hash: str, pid: int) -> RunRow:
        """Go on with a run."""
        if run not in self._runs:
            raise StorageError(f"there is no run {run}", hint="crawler runs")
        sent = list(self._sent[run].values())
        for place in dict.fromkeys(row.place for row in sent):
            self._fail([row for row in sent if row.place == place], "unknown", 0.0)
        self._runs[run] = replace(
            self._runs[run],
            state=RunState.RUNNING,
            finished_at=None,
            ended_by=None,
            settings=settings,
            code_hash=code_hash,
            pid=pid,
        )
        return self._runs[run]

    async def end(
        self, run: int, state: RunState, *, at: float, ended_by: str, stats: str = "{}"
    ) -> None:
        """Close a run's session; `stats` is not kept."""
        self._runs[run] = replace(self._runs[run], state=state, finished_at=at, ended_by=ended_by)

    async def runs(self) -> list[RunRow]:
        """All runs, oldest first."""
        return list(self._runs.values())

    async def note(self, run: int, key: str, value: str | None) -> None:
        """Keep a value about a run."""
        if value is None:
            self._notes[run].pop(key, None)
        else:
            self._notes[run][key] = value

    async def notes(self, run: int) -> dict[str, str]:
        """What is kept about a run."""
        return dict(self._notes[run])

    async def declare(self, table: Table) -> None:
        """Make an item table, or add its new columns."""
        known = self._items.get(table.name.lower())
        names = [column.name for column in table.columns]
        if is_reserved(table.name) or (table.key is not None and table.key not in names):
            raise StorageError(f"an item table cannot be {table.name!r} with key {table.key!r}")
        if known is None:
            self._items[table.name.lower()] = _Items(table, {})
            return
        types = {column.name.lower(): column.type for column in known.table.columns}
        changed = [c.name for c in table.columns if types.get(c.name.lower(), c.type) != c.type]
        if changed or table.key != known.table.key:
            raise StorageError(f"table {table.name} has changed: {changed or 'its key'}")
        new = tuple(c for c in table.columns if c.name.lower() not in types)
        known.table = replace(known.table, columns=known.table.columns + new)

    async def claim(
        self, worker: str, runs: Collection[int], limit: int, now: float
    ) -> list[Claim]:
        """Every claim is granted."""
        free = [
            (not any(self._ready.get((run, d.id)) for run in runs), d.id, d)
            for d in self._domains.values()
            if (d.owner != worker or d.lease_until <= now)
            and any(self._ledger.sums[run, d.id]["queued"] > 0 for run in runs)
        ]
        claims = []
        for _, _, domain in sorted(free)[:limit]:
            domain.owner, domain.epoch = worker, domain.epoch + 1
            domain.lease_until = now + LEASE_S
            claims.append(
                Claim(domain=domain.name, epoch=domain.epoch, lease_until=domain.lease_until)
            )
        return claims

    async def renew(self, worker: str, now: float) -> None:
        """Extend the leases of a worker."""
        for domain in self._domains.values():
            if domain.owner == worker:
                domain.lease_until = now + LEASE_S

    async def release(self, worker: str, domains: Iterable[str]) -> None:
        """Give up leases."""
        for name in domains:
            domain = self._domains.get(name)
            if domain and domain.owner == worker:
                domain.owner = None

    async def window(self, run: int, domain: str, limit: int) -> list[QueuedRequest]:
        """The first ready rows of a domain."""
        place = (run, self._domains[domain].id if domain in self._domains else 0)
        rows = [self._rows[number] for _, number in self._ready.get(place, [])[:limit]]
        return [
            QueuedRequest(
                id=row.id,
                run=run,
                domain=domain,
                url=row.offer.url,
                method=row.offer.method,
                priority=row.offer.priority,
                depth=row.offer.depth,
                attempts=row.attempts,
                payload=row.offer.payload,
            )
            for row in rows
        ]

    async def wake(self, runs: Collection[int], now: float) -> Woken:
        """Make due rows ready."""
        ready: dict[tuple[int, str], None] = {}
        for run in runs:
            for row in [r for r in self._waiting[run].values() if (r.not_before or 0.0) <= now]:
                self._move(row, State.QUEUED, None)
                self._ledger.sums[row.place]["waiting"] -= 1
                ready[run, row.offer.domain] = None
        left = [row.not_before or 0.0 for run in runs for row in self._waiting[run].values()]
        return Woken(ready=tuple(ready), next_at=min(left, default=None))

    async def commit(self, batch: Sequence[Commit]) -> list[Ack]:
        """Apply pages, in order."""
        return [self._apply(commit) for commit in batch]

    async def fail_domain(
        self, run: int, domain: str, epoch: int, *, reason: str, message: str, at: float
    ) -> int:
        """Fail what a domain has queued."""
        known = self._domains.get(domain)
        if known is None or known.epoch != epoch:
            return 0
        place = (run, known.id)
        waiting = [row for row in self._waiting[run].values() if row.place == place]
        return self._fail([self._rows[n] for _, n in self._ready[place]] + waiting, reason, at)

    async def is_finished(self, run: int) -> bool:
        """Seeded, and nothing queued or sent."""
        if run not in self._runs or self._runs[run].seeded_at is None:
            return False
        ready = any(rows for place, rows in self._ready.items() if place[0] == run)
        return not (ready or self._waiting[run] or self._sent[run])

    async def count(self, run: int) -> dict[str, int]:
        """Counters of a run."""
        names = [name for name in COUNTERS if not name.endswith("_s")]
        places = [sums for place, sums in self._ledger.sums.items() if place[0] == run]
        counted = {name: int(sum(sums[name] for sums in places)) for name in names}
        counted["fetches"] = counted["requests"]
        return counted

    async def queues(self, run: int, limit: int) -> Queues:
        """What a run has queued, the longest queues first."""
        names = {domain.id: domain.name for domain in self._domains.values()}
        found = [
            (-int(sums["queued"]), place[1], int(sums["waiting"]))
            for place, sums in self._ledger.sums.items()
            if place[0] == run and sums["queued"] > 0
        ]
        return Queues(
            queued=-sum(queued for queued, _, _ in found),
            waiting=sum(waiting for _, _, waiting in found),
            domains=len(found),
            longest=tuple((names[d], -queued, w) for queued, d, w in sorted(found)[:limit]),
        )

    async def origins(self, run: int) -> list[str]:
        """Domains of depth-0 requests, in order of discovery."""
        rows = [r for r in self._rows.values() if r.place[0] == run and r.offer.depth == 0]
        return [name for _, name in sorted({(r.place[1], r.offer.domain) for r in rows})]

    async def items(self, run: int, table: str) -> list[dict[str, Scalar]]:
        """The items of a run."""
        known = self._items.get(table.lower())
        if known is None:
            raise StorageError(f"there is no item table {table!r}")
        names = [column.name for column in known.table.columns]
        rows = [row for identity, row in known.rows.items() if identity[0] == run]
        return [{name: row.get(name.lower()) for name in names} for row in rows]

    async def tables(self) -> list[str]:
        """Names of the item tables, oldest first."""
        return [items.table.name for items in self._items.values()]

    def knows(self, run: int, fingerprint: bytes) -> bool:
        """True for every accepted row."""
        return (run, fingerprint) in self._accepted

    def hurry(self) -> None:
        """Nothing waits here."""

    def stats(self) -> StoreStats:
        """Counters since the store was made."""
        return StoreStats(
            commits=self._applied,
            groups=self._applied,
            stale=self._stale,
            refused=self._refused,
            known=len(self._accepted),
        )

    async def aclose(self) -> None:
        """Nothing to do; what it holds can still be read."""

    def _apply(self, commit: Commit) -> Ack:
        row = None
        if commit.request is not None:
            row = self._rows.get(commit.request)
            if row is None or row.place[0] != commit.run or row.state.is_settled:
                self._stale += 1
                return Ack(applied=False)
            if self._domains[row.offer.domain].epoch != commit.epoch:
                self._stale += 1
                return Ack(applied=False)
        problem = next(filter(None, map(self._objection, commit.items)), None)
        if problem is not None:
            self._refused += 1
            if row is not None:
                self._fail([row], "store", commit.at)
            return Ack(applied=False, error=problem)
        domain = self._domain(commit.domain).id if commit.domain else 0
        place = row.place if row else (commit.run, domain)
        inserted = tuple(self._offer(place, link) for link in commit.links)
        for item in commit.items:
            self._store(place, commit.request, item)
        self._count(place, commit)
        if row is not None:
            self._settle(row, commit)
        if commit.seeded and self._runs[commit.run].seeded_at is None:
            self._runs[commit.run] = replace(self._runs[commit.run], seeded_at=commit.at)
        self._applied += 1
        return Ack(applied=True, inserted=inserted)

    def _offer(self, source: Place, link: NewRequest) -> int | None:
        place = (source[0], self._domain(link.domain).id)
        row = self._by_key.get((place, link.fingerprint))
        if row and (link.dropped is not None or row.state is not State.DROPPED):
            self._ledger.sums[source]["duplicates"] += 1
            return None
        if link.dropped is not None:
            self._ledger.refuse(place, link.dropped)
            self._dropped[place[0]] += 1
            if self._dropped[place[0]] <= KEPT:
                self._insert(place, link, State.DROPPED)
            return None
        if row is None:
            row = self._insert(place, link, State.QUEUED)
        else:
            self._ledger.sums[place]["dropped"] -= 1
            row.offer, row.attempts = link, 0
        self._move(row, State.QUEUED, link.not_before)
        self._ledger.queue(place, link.not_before is not None)
        self._accepted.add((place[0], link.fingerprint))
        return row.id

    def _insert(self, place: Place, link: NewRequest, state: State) -> _Row:
        self._last_row += 1
        row = _Row(self._last_row, place, link, state)
        self._rows[row.id] = self._by_key[place, link.fingerprint] = row
        return row

    def _settle(self, row: _Row, commit: Commit) -> None:
        waited = row.not_before is not None
        not_before = commit.not_before if commit.state is State.QUEUED else None
        self._move(row, commit.state, not_before)
        if commit.attempts or commit.state is State.QUEUED:
            row.attempts = commit.attempts
        if commit.state is State.DROPPED:
            self._accepted.discard((row.place[0], row.offer.fingerprint))
        if commit.state is State.FAILED and not commit.errors:
            self._ledger.problem(row.place, commit.reason or "failed", commit.at)
        self._ledger.settle(
            row.place, commit.state, commit.reason, waited, not_before is not None, commit.at
        )

    def _move(self, row: _Row, state: State, not_before: float | None) -> None:
        """Change what decides where a row is found, and keep the ready and waiting sets."""
        ready = self._ready[row.place]
        at = bisect_left(ready, row.rank)
        if at < len(ready) and ready[at] == row.rank:
            del ready[at]
        self._waiting[row.place[0]].pop(row.id, None)
        self._sent[row.place[0]].pop(row.id, None)
        row.state, row.not_before = state, not_before
        if state is State.QUEUED and not_before is None:
            insort(ready, row.rank)
        elif state is State.QUEUED:
            self._waiting[row.place[0]][row.id] = row
        elif state is State.SENT:
            self._sent[row.place[0]][row.id] = row

    def _fail(self, rows: list[_Row], reason: str, at: float) -> int:
        """Fail rows of one domain, with one problem."""
        for row in rows:
            waited = row.not_before is not None
            self._move(row, State.FAILED, None)
            self._ledger.settle(row.place, State.FAILED, reason, waited, False, at)
        if rows:
            self._ledger.problem(rows[0].place, reason, at)
        return len(rows)

    def _count(self, place: Place, commit: Commit) -> None:
        for fetch in commit.fetches:
            self._ledger.fetch(place, fetch)
        for error in commit.errors:
            self._ledger.problem(place, error.code, commit.at)
        if commit.duplicates:
            self._ledger.sums[place]["duplicates"] += commit.duplicates
        if commit.pace is not None:
            self._ledger.pace(place, commit.pace)

    def _objection(self, item: ItemRow) -> str | None:
        known = self._items.get(item.table.lower())
        if known is None:
            return f"an item table cannot be {item.table!r}" if is_reserved(item.table) else None
        key = known.table.key
        given = dict(zip(map(str.lower, item.columns), item.values, strict=True))
        if key is not None and given.get(key.lower()) is None:
            return f"table {item.table}: an item without its key {key}"
        return None

    def _store(self, place: Place, request: int | None, item: ItemRow) -> None:
        known = self._items.setdefault(item.table.lower(), _Items(Table(name=item.table), {}))
        have = {column.name.lower() for column in known.table.columns}
        new = tuple(Column(name=c, type="") for c in item.columns if c.lower() not in have)
        known.table = replace(known.table, columns=known.table.columns + new)
        row = dict(zip(map(str.lower, item.columns), item.values, strict=True))
        key = known.table.key
        identity = (place[0], row[key.lower()]) if key else (place[0], request, item.ordinal)
        if identity not in known.rows:
            self._ledger.sums[place]["items"] += 1
        known.rows[identity] = row

    def _domain(self, name: str) -> _Domain:
        if name not in self._domains:
            self._domains[name] = _Domain(len(self._domains) + 1, name)
        return self._domains[name]
