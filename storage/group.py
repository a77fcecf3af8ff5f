"""A group of pages as about twenty set-based statements.

Owns: which pages are live, which links are new, and every row and counter that follows.
Does not own: transactions, threads, or what happens to a page that is refused (`writer`).

Invariants: pages take effect in their order, links before the page's own mark; a page
whose request is settled, or whose domain has a newer epoch, leaves no trace; request and
domain ids are made here and never used twice, even after a rollback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from storage import bulk
from storage.ledger import Ledger
from storage.records import Ack, Commit, ErrorRow, State
from storage.schema import DECISIONS, HTTP_VERSIONS, Tally
from storage.tables import ItemTables, StoredItem

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from storage.known import Known
    from storage.records import FetchRow, NewRequest, Scalar

__all__ = ["KEPT", "GroupWriter"]

KEPT = 100_000
"""Dropped rows, and problem rows, that a run keeps; what is beyond is only counted."""
KEPT_DOMAINS = 65_536
"""Domain ids remembered."""

_LIVE = (
    "SELECT json_group_array(json_array(r.id, r.domain, r.not_before IS NOT NULL,"
    " CASE WHEN v.column4 THEN hex(r.fp) END)) FROM :rows v"
    " CROSS JOIN req r ON r.id = v.column1 JOIN domain d ON d.id = r.domain"
    " WHERE r.state < 2 AND d.epoch = v.column2 AND r.run = v.column3"
)
_DOMAINS = (
    "SELECT json_group_array(json_array(d.name, d.id)) FROM :rows v"
    " CROSS JOIN domain d ON d.name = v.column1"
)
_NEW_DOMAINS = "INSERT INTO domain (id, name) SELECT * FROM :rows WHERE column1 IS NOT NULL"
_LINKS = (
    "SELECT json_group_array(json_array(v.column1, r.id, r.state, r.reason)) FROM :rows v"
    " CROSS JOIN req r ON r.run = v.column2 AND r.domain = v.column3 AND r.fp = v.column4"
)
_NEW = "INSERT INTO req SELECT * FROM :rows WHERE column1 IS NOT NULL"
_REQUEUE = (
    "UPDATE req SET state = 0, attempts = 0, reason = NULL, finished_at = NULL,"
    " priority = v.column2, depth = v.column3, not_before = v.column4, url = v.column5,"
    " method = v.column6, payload = v.column7, parent = v.column8, redirect_of = v.column9"
    " FROM :rows v WHERE req.id = v.column1"
)
_SETTLE = (
    "UPDATE req SET state = v.column2, reason = v.column3, not_before = v.column4,"
    " attempts = coalesce(v.column5, attempts), finished_at = v.column6"
    " FROM :rows v WHERE req.id = v.column1"
)
_TO_KNOWN = "UPDATE req SET reason = 'redirected_known' FROM :rows v WHERE req.id = v.column1"
_FETCHES = (
    "INSERT INTO fetch_log (run, request, domain, url, attempt, status, error, decision,"
    " started_at, wait_s, connect_s, ttfb_s, total_s, bytes_received, reused, proxy,"
    " dns_s, tls_s, peer, http_version, nth, generation, replays)"
    " SELECT * FROM :rows WHERE column1 IS NOT NULL"
)
_PROBLEMS = (
    "INSERT INTO problem (run, request, domain, at, code, message, detail)"
    " SELECT * FROM :rows WHERE column1 IS NOT NULL"
)
_DECISIONS = {name: code for code, name in enumerate(DECISIONS)}
_HTTP_VERSIONS = {None: None} | {name: code or None for code, name in enumerate(HTTP_VERSIONS)}


class _Page(Struct):
    """A live page; `domain` is the id under which it counts, 0 for none."""

    commit: Commit
    domain: int
    waited: bool = False
    inserted: tuple[int | None, ...] = ()

    @property
    def place(self) -> tuple[int, int]:
        return self.commit.run, self.domain


class _Entry(Struct):
    """A request row that links of this group lead to."""

    id: int
    state: State
    is_new: bool = False
    reason: str | None = None
    offer: tuple[_Page, NewRequest] | None = None
    """What the row is to be written from; None: it stays as it is."""


class GroupWriter:
    """Applies pages inside the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection, known: Known) -> None:
        self.tables = ItemTables(connection)
        self._connection = connection
        self._known = known
        self._learned: list[tuple[int, bytes]] = []
        self._domains: dict[str, int] = {}
        self._runs: dict[int, str] = {}
        self._dropped: dict[int, int] = {}
        self._problems: dict[int, int] = {}
        ids = "SELECT json_array(coalesce(max(id), 0)) FROM "
        (self._last_request,) = bulk.read_one(connection, ids + "req")
        (self._last_domain,) = bulk.read_one(connection, ids + "domain")

    def __repr__(self) -> str:
        return f"<GroupWriter {len(self._domains)} domains, last request {self._last_request}>"

    def confirm(self) -> None:
        """The transaction is durable: what it accepted may be known."""
        self._known.update(self._learned)
        self._learned.clear()

    def forget(self) -> None:
        """The transaction was rolled back: remember nothing of it."""
        self.tables.forget()
        for remembered in (self._domains, self._runs, self._dropped, self._problems):
            remembered.clear()
        self._learned.clear()

    def apply(self, commits: Sequence[Commit]) -> list[Ack]:
        """Write a group's rows. No two of its commits may settle the same request."""
        ledger = Ledger()
        pages = self._live(commits)
        live = [page for page in pages if page is not None]
        self._settle(live)
        self._links(live, ledger)
        self._mark_known_targets(live)
        self._fetches(live, ledger)
        self._items(live, ledger)
        self._log_problems(live, ledger)
        for page in live:
            self._count(page, ledger)
        ledger.write(self._connection)
        return [
            Ack(applied=False) if page is None else Ack(applied=True, inserted=page.inserted)
            for page in pages
        ]

    def refuse(self, commit: Commit, message: str) -> Ack:
        """Fail the request of a page whose data cannot be stored, and say why."""
        readable = message.encode("utf-8", "backslashreplace").decode()
        failed = Commit(
            run=commit.run,
            epoch=commit.epoch,
            request=commit.request,
            state=State.FAILED,
            reason="store",
            at=commit.at,
            errors=(ErrorRow(code="store", message=readable),),
        )
        (ack,) = self.apply([failed])
        return Ack(applied=False, error=readable if ack.applied else None)

    def domain_ids(self, names: Iterable[str]) -> dict[str, int]:
        """Ids of domains, new ones for new names."""
        wanted = dict.fromkeys(names)
        missing = [(name,) for name in wanted if name not in self._domains]
        if missing:
            if len(self._domains) > KEPT_DOMAINS:
                self._domains = {n: i for n, i in self._domains.items() if n in wanted}
            self._domains.update(bulk.read(self._connection, _DOMAINS, missing))
            new = []
            for (name,) in missing:
                if name not in self._domains:
                    self._last_domain += 1
                    self._domains[name] = self._last_domain
                    new.append((self._last_domain, name))
            bulk.write(self._connection, _NEW_DOMAINS, new)
        return self._domains

    def _live(self, commits: Sequence[Commit]) -> list[_Page | None]:
        """A page per commit; None: it is stale."""
        asked = [
            (c.request, c.epoch, c.run, c.state is State.DROPPED)
            for c in commits
            if c.request is not None
        ]
        found = {row[0]: row for row in bulk.read(self._connection, _LIVE, asked)}
        free = {c.domain for c in commits if c.request is None and c.domain}
        ids = self.domain_ids(free)
        pages: list[_Page | None] = []
        for commit in commits:
            if commit.request is None:
                pages.append(_Page(commit, ids.get(commit.domain, 0)))
            elif commit.request in found:
                _, domain, waited, dropped = found[commit.request]
                pages.append(_Page(commit, domain, bool(waited)))
                if dropped:
                    self._known.discard(commit.run, bytes.fromhex(dropped))
            else:
                pages.append(None)
        return pages

    def _settle(self, live: list[_Page]) -> None:
        rows = []
        for page in live:
            c = page.commit
            if c.request is not None:
                finished_at = c.at if c.state.is_settled else None
                not_before = c.not_before if c.state is State.QUEUED else None
                attempts = c.attempts if c.attempts or c.state is State.QUEUED else None
                rows.append((c.request, int(c.state), c.reason, not_before, attempts, finished_at))
        bulk.write(self._connection, _SETTLE, rows)

    def _links(self, live: list[_Page], ledger: Ledger) -> None:
        """Insert or requeue what the links lead to; fill each page's `inserted`."""
        ids = self.domain_ids(link.domain for page in live for link in page.commit.links)
        entries = self._entries(live, ids)
        settling = {page.commit.request: page.commit for page in live}
        by_id = {entry.id: entry for entry in entries.values() if entry.id in settling}
        for entry in by_id.values():  # read after the marks were set: undo them in order
            entry.state = State.QUEUED
        for page in live:
            run = page.commit.run
            page.inserted = tuple(
                self._offer(page, link, (run, ids[link.domain], link.fingerprint), entries, ledger)
                for link in page.commit.links
            )
            own = by_id.get(page.commit.request or 0)
            if own is not None:
                own.state = page.commit.state
        self._write_links(entries)

    def _mark_known_targets(self, live: list[_Page]) -> None:
        """A redirect to a URL that the run knew already is settled as such."""
        rows = [
            (page.commit.request,)
            for page in live
            if page.commit.reason == "redirected" and not any(page.inserted)
        ]
        bulk.write(self._connection, _TO_KNOWN, rows)

    def _entries(
        self, live: list[_Page], ids: dict[str, int]
    ) -> dict[tuple[int, int, bytes], _Entry]:
        """The rows that exist already, by (run, domain, fingerprint)."""
        keys = list(
            dict.fromkeys(
                (page.commit.run, ids[link.domain], link.fingerprint)
                for page in live
                for link in page.commit.links
            )
        )
        found = bulk.read(self._connection, _LINKS, [(n, *key) for n, key in enumerate(keys)])
        return {
            keys[n]: _Entry(request, State(state), reason=reason)
            for n, request, state, reason in found
        }

    def _offer(
        self,
        page: _Page,
        link: NewRequest,
        key: tuple[int, int, bytes],
        entries: dict[tuple[int, int, bytes], _Entry],
        ledger: Ledger,
    ) -> int | None:
        """Decide what one link does; the id of the row it queues."""
        entry, place = entries.get(key), key[:2]
        if entry and (link.dropped is not None or entry.state is not State.DROPPED):
            ledger.sums[page.place]["duplicates"] += 1
            return None
        if link.dropped is not None:
            ledger.refuse(place, link.dropped)
            if self._has_room(self._dropped, "dropped", place[0]):
                self._last_request += 1
                entries[key] = _Entry(
                    self._last_request, State.DROPPED, True, link.dropped, (page, link)
                )
            return None
        if entry:
            ledger.take_back(place, entry.reason)
        else:
            self._last_request += 1
            entries[key] = entry = _Entry(self._last_request, State.QUEUED, True)
        entry.state, entry.offer = State.QUEUED, (page, link)
        ledger.queue(place, link.not_before is not None)
        return entry.id

    def _write_links(self, entries: dict[tuple[int, int, bytes], _Entry]) -> None:
        new, requeued = [], []
        for key, entry in entries.items():
            if entry.state is not State.DROPPED:
                self._learned.append((key[0], key[2]))
            if entry.offer is None:
                continue
            page, link = entry.offer
            method = None if link.method == "GET" else link.method
            request, at = page.commit.request, page.commit.at
            source = request if link.is_redirect else None
            order = (link.priority, link.depth)
            rest = (link.not_before, link.url, method, link.payload, request, source)
            if entry.is_new:
                settled_at = at if link.dropped is not None else None
                marks = (link.dropped, at, settled_at)
                new.append((entry.id, *key, int(entry.state), *order, 0, *rest, *marks))
            else:
                requeued.append((entry.id, *order, *rest))
        bulk.write(self._connection, _NEW, new)
        bulk.write(self._connection, _REQUEUE, requeued)

    def _fetches(self, live: list[_Page], ledger: Ledger) -> None:
        rows = []
        for page in live:
            for f in page.commit.fetches:
                ledger.fetch(page.place, f)
                rows.append(_fetch_row(page, f))
        bulk.write(self._connection, _FETCHES, rows)

    def _items(self, live: list[_Page], ledger: Ledger) -> None:
        stored = [
            StoredItem(
                self._run_name(page.commit.run), page.commit.request, item, ledger.sums[page.place]
            )
            for page in live
            for item in page.commit.items
        ]
        if replaced := self.tables.write(stored):
            ids = {name: run for run, name in self._runs.items()}
            for (run, table), n in replaced.items():
                ledger.tally((ids[run], 0), Tally.REPLACED, table, n)

    def _log_problems(self, live: list[_Page], ledger: Ledger) -> None:
        rows = []
        for page in live:
            c = page.commit
            errors = c.errors
            if c.state is State.FAILED and c.request is not None and not errors:
                errors = (ErrorRow(code=c.reason or "failed", message=""),)
            for error in errors:
                ledger.problem(page.place, error.code, c.at)
                if self._has_room(self._problems, "errors", c.run):
                    row = (c.run, c.request, page.domain, c.at)
                    rows.append((*row, error.code, error.message, error.detail))
        bulk.write(self._connection, _PROBLEMS, rows)

    def _count(self, page: _Page, ledger: Ledger) -> None:
        c = page.commit
        if c.request is not None:
            waits = c.state is State.QUEUED and c.not_before is not None
            ledger.settle(page.place, c.state, c.reason, page.waited, waits, c.at)
        if c.duplicates:
            ledger.sums[page.place]["duplicates"] += c.duplicates
        if c.pace is not None:
            ledger.pace(page.place, c.pace)
        if c.seeded:
            self._connection.execute(
                "UPDATE run SET seeded_at = coalesce(seeded_at, ?) WHERE id = ?", (c.at, c.run)
            )

    def _run_name(self, run: int) -> str:
        if run not in self._runs:
            row = self._connection.execute("SELECT name FROM run WHERE id = ?", (run,)).fetchone()
            if row is None:
                raise ValueError(f"there is no run {run}")
            self._runs[run] = row[0]
        return self._runs[run]

    def _has_room(self, kept: dict[int, int], counter: str, run: int) -> bool:
        """True, and one fewer is left, while a run keeps rows of this kind."""
        if run not in kept:
            (kept[run],) = bulk.read_one(
                self._connection,
                f"SELECT json_array(coalesce(sum({counter}), 0)) FROM run_domain WHERE run = ?",
                (run,),
            )
        kept[run] += 1
        return kept[run] <= KEPT


def _fetch_row(page: _Page, f: FetchRow) -> tuple[Scalar, ...]:
    """The values of `_FETCHES`; what is as nearly always is NULL."""
    return (
        page.commit.run,
        page.commit.request,
        page.domain,
        f.url,
        f.attempt,
        f.status,
        f.error,
        _DECISIONS.get(f.decision, f.decision),
        f.started_at,
        f.wait_s,
        f.connect_s,
        f.ttfb_s,
        f.total_s,
        f.bytes_received,
        f.reused,
        f.proxy,
        f.dns_s,
        f.tls_s,
        f.peer if f.reused is False else None,
        _HTTP_VERSIONS.get(f.http_version, f.http_version),
        f.nth,
        None if f.generation == 1 else f.generation,
        f.replays or None,
    )
