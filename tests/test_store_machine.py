"""Random crawls: every store against one model of it, SQLite and memory alike."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Struct

from storage import Column, Commit, ItemRow, NewRequest, State, Table, open_store
from tests.store_rows import NOW, commit, link, started

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Row(Struct):
    """A request, as the model has it."""

    id: int
    link: NewRequest
    state: State
    attempts: int = 0
    not_before: float | None = None

    @property
    def is_ready(self) -> bool:
        return self.state is State.QUEUED and self.not_before is None


DOMAINS = ("a.test", "b.test")
offers = st.builds(
    lambda n, **more: link(f"http://x.test/{n}", DOMAINS[n % 2], **more),
    st.integers(0, 9),
    priority=st.integers(-1, 1),
    dropped=st.sampled_from([None, None, "scope"]),
    not_before=st.sampled_from([None, None, NOW + 1, NOW + 2]),
)
pages = st.fixed_dictionaries(
    {
        "which": st.integers(0, 30),
        "state": st.sampled_from(State),
        "attempts": st.integers(0, 3),
        "not_before": st.sampled_from([None, NOW + 1]),
        "links": st.lists(offers, max_size=3),
        "key": st.sampled_from([None, "x", "y"]),
    }
)


class StoreMachine(RuleBasedStateMachine):
    """Random crawls against a store and a model of twenty lines."""

    is_durable = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        kind = Path(self.folder.name, "crawl.db") if self.is_durable else None
        self.store = self.runner.run(open_store(kind))
        self.run = self.runner.run(started(self.store))
        table = Table(
            name="thing", columns=(Column(name="k"), Column(name="n", type="INTEGER")), key="k"
        )
        self.runner.run(self.store.declare(table))
        self.rows: dict[bytes, Row] = {}
        self.epochs = dict.fromkeys(DOMAINS, 0)
        self.owners: dict[str, str] = {}
        self.things: dict[str, int] = {}
        self.counted = dict.fromkeys(("duplicates", "errors"), 0)

    def teardown(self) -> None:
        self.runner.run(self.store.aclose())
        self.runner.close()
        self.folder.cleanup()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def offered(self, offer: NewRequest, number: int | None) -> bool:
        """Take an offer into the model; True when it must have been queued."""
        row = self.rows.get(offer.fingerprint)
        if row and (offer.dropped or row.state is not State.DROPPED):
            self.counted["duplicates"] += 1
            return False
        if offer.dropped:
            self.rows[offer.fingerprint] = Row(-1, offer, State.DROPPED)
            return False
        if row and row.id > 0:
            assert number == row.id
        self.rows[offer.fingerprint] = Row(
            number or 0, offer, State.QUEUED, not_before=offer.not_before
        )
        return True

    @rule(links=st.lists(offers, min_size=1, max_size=5))
    def offer(self, links: list[NewRequest]) -> None:
        (ack,) = self.do(
            commit(self.store, [Commit(run=self.run, links=tuple(links), at=NOW, seeded=True)])
        )
        self.check_links(links, ack.inserted)

    def check_links(self, links: list[NewRequest], inserted: tuple[int | None, ...]) -> None:
        for one, number in zip(links, inserted, strict=True):
            assert self.offered(one, number) == (number is not None)

    @rule(batch=st.lists(pages, min_size=1, max_size=3), is_current=st.sampled_from([1, 1, 0]))
    def settle(self, batch: list[dict[str, Any]], is_current: int) -> None:
        numbered = sorted(
            (row for row in self.rows.values() if row.id > 0 and row.state is not State.DROPPED),
            key=lambda row: row.id,
        )
        if not numbered:
            return
        chosen = [numbered[page["which"] % len(numbered)] for page in batch]
        commits = [
            self.page(row, page, self.epochs[row.link.domain] - 1 + is_current)
            for row, page in zip(chosen, batch, strict=True)
        ]
        acks = self.do(commit(self.store, commits))
        for old, sent, ack in zip(chosen, commits, acks, strict=True):
            row = self.rows[old.link.fingerprint]
            assert ack.applied == bool(is_current and not row.state.is_settled)
            if ack.applied:
                self.check_links(list(sent.links), ack.inserted)
                self.settled(row, sent)

    def page(self, row: Row, page: dict[str, Any], epoch: int) -> Commit:
        things = [page["key"]] if page["key"] else []
        return Commit(
            run=self.run,
            domain=row.link.domain,
            epoch=epoch,
            request=row.id,
            state=page["state"],
            attempts=page["attempts"],
            not_before=page["not_before"],
            at=NOW,
            links=tuple(page["links"]),
            items=tuple(
                ItemRow(table="thing", columns=("k", "n"), values=(key, row.id), ordinal=0)
                for key in things
            ),
        )

    def settled(self, row: Row, commit: Commit) -> None:
        row.state = commit.state
        row.not_before = commit.not_before if commit.state is State.QUEUED else None
        if commit.state is State.QUEUED or commit.attempts:
            row.attempts = commit.attempts
        self.counted["errors"] += commit.state is State.FAILED
        for one in commit.items:
            self.things[str(one.values[0])] = row.id

    @rule(worker=st.sampled_from("vw"), limit=st.integers(1, 2))
    def claim(self, worker: str, limit: int) -> None:
        claims = self.do(self.store.claim(worker, [self.run], limit, NOW))
        free = {
            domain
            for domain in DOMAINS
            if self.owners.get(domain) != worker
            and any(r.link.domain == domain and not r.state.is_settled for r in self.rows.values())
        }
        assert len(claims) == min(limit, len(free))
        for one in claims:
            assert one.domain in free
            self.epochs[one.domain] += 1
            assert one.epoch == self.epochs[one.domain]
            self.owners[one.domain] = worker

    @rule(worker=st.sampled_from("vw"))
    def release(self, worker: str) -> None:
        self.do(self.store.release(worker, DOMAINS))
        self.owners = {name: owner for name, owner in self.owners.items() if owner != worker}

    @rule(now=st.sampled_from([NOW, NOW + 1, NOW + 2]))
    def wake(self, now: float) -> None:
        woken = self.do(self.store.wake([self.run], now))
        ready, left = set(), []
        for row in self.rows.values():
            if row.state is State.QUEUED and row.not_before is not None:
                if row.not_before <= now:
                    row.not_before = None
                    ready.add((self.run, row.link.domain))
                else:
                    left.append(row.not_before)
        assert set(woken.ready) == ready
        assert woken.next_at == min(left, default=None)

    @rule(domain=st.sampled_from(DOMAINS))
    def fail_domain(self, domain: str) -> None:
        how: dict[str, Any] = {"reason": "unreachable", "message": "", "at": NOW}
        failed = self.do(self.store.fail_domain(self.run, domain, self.epochs[domain], **how))
        queued = [
            row
            for row in self.rows.values()
            if row.link.domain == domain and row.state is State.QUEUED
        ]
        assert failed == len(queued)
        for row in queued:
            row.state, row.not_before = State.FAILED, None
        self.counted["errors"] += bool(queued)

    @invariant()
    def windows_hold_the_ready_rows_in_order(self) -> None:
        for domain in DOMAINS:
            rows = [r for r in self.rows.values() if r.link.domain == domain and r.is_ready]
            rows.sort(key=lambda row: (-row.link.priority, row.id))
            window = self.do(self.store.window(self.run, domain, 20))
            assert [(w.id, w.attempts) for w in window] == [(r.id, r.attempts) for r in rows]

    @invariant()
    def counters_equal_a_recount(self) -> None:
        counted = self.do(self.store.count(self.run))
        states = [row.state for row in self.rows.values()]
        expected = {
            "queued": states.count(State.QUEUED) + states.count(State.SENT),
            "waiting": sum(row.not_before is not None for row in self.rows.values()),
            "done": states.count(State.DONE),
            "failed": states.count(State.FAILED),
            "dropped": states.count(State.DROPPED),
            "items": len(self.things),
            **self.counted,
        }
        assert {name: counted[name] for name in expected} == expected

    @invariant()
    def items_are_the_last_of_each_key(self) -> None:
        rows = self.do(self.store.items(self.run, "thing"))
        assert {row["k"]: row["n"] for row in rows} == self.things

    @invariant()
    def what_is_known_is_stored_and_accepted(self) -> None:
        for n in range(10):
            fingerprint = link(f"http://x.test/{n}").fingerprint
            if self.store.knows(self.run, fingerprint):
                assert self.rows[fingerprint].state is not State.DROPPED

    @invariant()
    def finished_means_seeded_and_nothing_unsettled(self) -> None:
        unsettled = any(not row.state.is_settled for row in self.rows.values())
        finished = self.do(self.store.is_finished(self.run))
        assert finished == (bool(self.rows) and not unsettled)


class SqliteMachine(StoreMachine):
    """The same on SQLite."""

    is_durable = True


TestMemoryMachine = StoreMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(max_examples=6, stateful_step_count=15, deadline=None)
