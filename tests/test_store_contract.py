"""What every store promises, held against SQLite and memory alike."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Struct

from storage import (
    Ack,
    Column,
    Commit,
    DomainRow,
    ErrorRow,
    FetchRow,
    ItemRow,
    NewRequest,
    RunSpec,
    RunState,
    State,
    StorageError,
    Store,
    Table,
    open_store,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    Scene = Callable[[Store], Awaitable[None]]
    Play = Callable[[Scene], None]

NOW = 1_000_000.0


@asynccontextmanager
async def opened(target: Path | None) -> AsyncIterator[Store]:
    store = await open_store(target)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture(params=["sqlite", "memory"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Runs an async scene against a fresh store of each kind."""

    def run(scene: Scene) -> None:
        async def main() -> None:
            target = tmp_path / "crawl.db" if request.param == "sqlite" else None
            async with opened(target) as store:
                await scene(store)

        asyncio.run(main())

    return run


def link(url: str, domain: str = "a.test", **more: Any) -> NewRequest:
    fingerprint = hashlib.blake2b(url.encode(), digest_size=16).digest()
    return NewRequest(fingerprint=fingerprint, domain=domain, url=url, **more)


async def commit(store: Store, batch: list[Commit]) -> list[Ack]:
    """Commit without waiting for company."""
    task = asyncio.ensure_future(store.commit(batch))
    await asyncio.sleep(0)
    store.hurry()
    return await task


async def started(store: Store, spider: str = "books") -> int:
    return (await store.begin(RunSpec(spider=spider, started_at=NOW))).id


async def seeded(store: Store, run: int, *links: NewRequest) -> list[int | None]:
    (ack,) = await commit(store, [Commit(run=run, links=links, at=NOW, seeded=True)])
    assert ack.applied
    return list(ack.inserted)


async def claimed(store: Store, run: int, worker: str = "w") -> dict[str, int]:
    return {claim.domain: claim.epoch for claim in await store.claim(worker, [run], 100, NOW)}


async def urls(store: Store, run: int, domain: str = "a.test") -> list[str]:
    return [row.url for row in await store.window(run, domain, 100)]


def test_runs_are_numbered_per_spider_and_keep_what_they_were_begun_with(play: Play) -> None:
    async def scene(store: Store) -> None:
        first = await store.begin(RunSpec(spider="books", started_at=NOW, arguments='{"a":1}'))
        await store.begin(RunSpec(spider="other", started_at=NOW))
        third = await store.begin(RunSpec(spider="books", started_at=NOW + 1, pid=7))
        assert (first.name, third.name, third.pid) == ("books-1", "books-2", 7)
        assert [run.name for run in await store.runs()] == ["books-1", "other-1", "books-2"]
        assert (await store.runs())[0].arguments == '{"a":1}'

    play(scene)


def test_a_run_is_ended_and_gone_on_with(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        await store.end(run, RunState.WAITING, at=NOW + 9, ended_by="waiting", stats="{}")
        (row,) = await store.runs()
        assert (row.state, row.finished_at, row.ended_by) == (RunState.WAITING, NOW + 9, "waiting")
        back = await store.resume(run, settings='{"x":2}', code_hash="new", pid=3)
        assert (back.state, back.finished_at, back.ended_by) == (RunState.RUNNING, None, None)
        assert (back.settings, back.code_hash, back.pid) == ('{"x":2}', "new", 3)
        with pytest.raises(StorageError):
            await store.resume(99, settings="{}", code_hash="", pid=0)

    play(scene)


def test_a_url_is_queued_once_even_within_one_batch(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        one, two = link("http://a.test/1"), link("http://a.test/2")
        acks = await commit(
            store,
            [
                Commit(run=run, links=(one, two, one), at=NOW),
                Commit(run=run, links=(two,), at=NOW),
            ],
        )
        (a, b, c), (d,) = (ack.inserted for ack in acks)
        assert None not in (a, b)
        assert a != b
        assert (c, d) == (None, None)
        (again,) = await commit(store, [Commit(run=run, links=(one,), at=NOW)])
        assert again.inserted == (None,)
        assert await urls(store, run) == ["http://a.test/1", "http://a.test/2"]
        assert (await store.count(run))["duplicates"] == 3

    play(scene)


def test_runs_do_not_share_their_queues(play: Play) -> None:
    async def scene(store: Store) -> None:
        one, two = await started(store), await started(store)
        await seeded(store, one, link("http://a.test/"))
        assert await seeded(store, two, link("http://a.test/")) != [None]
        assert store.knows(one, link("http://b.test/").fingerprint) is False

    play(scene)


def test_a_dropped_url_is_not_queued_until_an_accepted_offer_requeues_it(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        refused = link("http://a.test/1", dropped="scope")
        assert await seeded(store, run, refused, refused) == [None, None]
        assert not store.knows(run, refused.fingerprint)
        assert await urls(store, run) == []
        assert await store.is_finished(run)
        (number,) = await seeded(store, run, link("http://a.test/1", depth=2, priority=5))
        (row,) = await store.window(run, "a.test", 10)
        assert (row.id, row.depth, row.priority) == (number, 2, 5)
        assert await seeded(store, run, refused) == [None]
        counted = await store.count(run)
        assert (counted["queued"], counted["dropped"], counted["duplicates"]) == (1, 0, 2)

    play(scene)


def test_within_one_batch_an_accepted_offer_overrides_an_earlier_refusal(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        offers = (link("http://a.test/1", dropped="depth"), link("http://a.test/1"))
        refused, accepted = await seeded(store, run, *offers)
        assert refused is None
        assert accepted is not None
        assert [row.id for row in await store.window(run, "a.test", 9)] == [accepted]
        assert (await store.count(run))["dropped"] == 0

    play(scene)


def test_a_page_that_drops_its_request_lets_a_later_offer_requeue_it(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        one, two = link("http://a.test/1"), link("http://a.test/2")
        a, b = await seeded(store, run, one, two)
        epoch = (await claimed(store, run))["a.test"]
        common: dict[str, Any] = {"run": run, "domain": "a.test", "epoch": epoch, "at": NOW}
        before, dropping, after = await commit(
            store,
            [
                Commit(links=(one,), request=None, **common),
                Commit(request=a, state=State.DROPPED, reason="robots", links=(one,), **common),
                Commit(request=b, links=(one,), **common),
            ],
        )
        assert (before.inserted, dropping.inserted, after.inserted) == ((None,), (None,), (a,))
        counted = await store.count(run)
        assert (counted["queued"], counted["done"], counted["dropped"]) == (1, 1, 0)

    play(scene)


def test_the_window_goes_by_priority_then_age_and_stops_at_its_limit(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        await seeded(
            store,
            run,
            link("http://a.test/low", priority=-1),
            link("http://a.test/1"),
            link("http://a.test/2"),
            link("http://a.test/high", priority=9, payload='{"callback":"book"}'),
            link("http://b.test/", "b.test", priority=99),
        )
        order = ["http://a.test/high", "http://a.test/1", "http://a.test/2", "http://a.test/low"]
        assert await urls(store, run) == order
        (row,) = await store.window(run, "a.test", 1)
        assert (row.run, row.domain, row.payload) == (run, "a.test", '{"callback":"book"}')
        assert await store.window(run, "nowhere.test", 5) == []

    play(scene)


def test_waiting_rows_become_ready_when_their_time_has_come(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        await seeded(
            store,
            run,
            link("http://a.test/1", not_before=NOW + 10),
            link("http://a.test/2", not_before=NOW + 20),
            link("http://b.test/", "b.test", not_before=NOW + 30),
        )
        assert await urls(store, run) == []
        assert (await store.wake([run], NOW)).next_at == NOW + 10
        woken = await store.wake([run], NOW + 20)
        assert (set(woken.ready), woken.next_at) == ({(run, "a.test")}, NOW + 30)
        assert await urls(store, run) == ["http://a.test/1", "http://a.test/2"]
        assert (await store.wake([run + 1], NOW + 99)).ready == ()
        assert (await store.count(run))["waiting"] == 1
        assert not await store.is_finished(run)

    play(scene)


def test_a_retry_puts_the_request_back_with_its_attempts(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        (number,) = await seeded(store, run, link("http://a.test/"))
        epoch = (await claimed(store, run))["a.test"]
        again = Commit(
            run=run,
            domain="a.test",
            epoch=epoch,
            request=number,
            state=State.QUEUED,
            attempts=1,
            not_before=NOW + 5,
            reason="http-503",
            at=NOW,
            fetches=(FetchRow(attempt=1, status=503, decision="retry", started_at=NOW),),
        )
        assert (await commit(store, [again]))[0].applied
        assert await urls(store, run) == []
        await store.wake([run], NOW + 5)
        (row,) = await store.window(run, "a.test", 9)
        assert (row.id, row.attempts) == (number, 1)
        counted = await store.count(run)
        assert (counted["queued"], counted["waiting"], counted["retries"]) == (1, 0, 1)

    play(scene)


def test_a_settled_request_makes_the_page_stale_and_leaves_no_trace(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        (number,) = await seeded(store, run, link("http://a.test/"))
        epoch = (await claimed(store, run))["a.test"]
        item = ItemRow(table="things", columns=("x",), values=(1,), ordinal=0)
        page = Commit(run=run, domain="a.test", epoch=epoch, request=number, at=NOW, items=(item,))
        first, second = await commit(store, [page, page])
        assert (first.applied, second.applied) == (True, False)
        late = link("http://a.test/late")
        stale = Commit(run=run, domain="a.test", epoch=epoch, request=number, at=NOW, links=(late,))
        (third,) = await commit(store, [stale])
        assert (third.applied, third.inserted) == (False, ())
        assert not store.knows(run, late.fingerprint)
        assert await store.items(run, "things") == [{"x": 1}]
        assert (store.stats().commits, store.stats().stale) == (2, 2)

    play(scene)


def test_a_worker_that_lost_its_domain_commits_nothing(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        (number,) = await seeded(store, run, link("http://a.test/"))
        old = await claimed(store, run, "one")
        assert await claimed(store, run, "one") == {}
        new = await claimed(store, run, "two")
        assert new["a.test"] > old["a.test"]
        common: dict[str, Any] = {"run": run, "domain": "a.test", "request": number, "at": NOW}
        (zombie,) = await commit(store, [Commit(epoch=old["a.test"], **common)])
        (owner,) = await commit(store, [Commit(epoch=new["a.test"], **common)])
        assert (zombie.applied, owner.applied) == (False, True)

    play(scene)


def test_leases_are_renewed_released_and_run_out(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        await seeded(store, run, link("http://a.test/"))
        (claim,) = await store.claim("w", [run], 5, NOW)
        assert claim.lease_until == NOW + 60
        await store.renew("w", NOW + 50)
        assert await store.claim("w", [run], 5, NOW + 100) == []
        await store.release("other", ["a.test"])
        assert await store.claim("w", [run], 5, NOW + 100) == []
        await store.release("w", ["a.test", "unheard.test"])
        (again,) = await store.claim("w", [run], 5, NOW + 100)
        assert again.epoch == claim.epoch + 1
        assert len(await store.claim("w", [run], 5, NOW + 161)) == 1

    play(scene)


def test_claims_prefer_domains_with_ready_rows_and_keep_to_the_limit(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        await seeded(
            store,
            run,
            link("http://a.test/", "a.test", not_before=NOW + 9),
            link("http://b.test/", "b.test"),
            link("http://c.test/", "c.test"),
        )
        assert [c.domain for c in await store.claim("w", [run], 2, NOW)] == ["b.test", "c.test"]
        assert [c.domain for c in await store.claim("w", [run], 2, NOW)] == ["a.test"]

    play(scene)


def test_the_later_item_of_a_key_wins_whole(play: Play) -> None:
    async def scene(store: Store) -> None:
        columns = (Column(name="url"), Column(name="price", type="REAL"), Column(name="note"))
        await store.declare(Table(name="book", columns=columns, key="url"))
        run = await started(store)
        numbers = await seeded(store, run, *(link(f"http://a.test/{n}") for n in range(3)))
        epoch = (await claimed(store, run))["a.test"]

        def page(n: int, *values: Any, columns: tuple[str, ...]) -> Commit:
            item = ItemRow(table="book", columns=columns, values=values, ordinal=0)
            return Commit(
                run=run,
                domain="a.test",
                epoch=epoch,
                request=numbers[n],
                at=NOW,
                items=(item,),
            )

        await commit(
            store,
            [
                page(0, "/x", 1.0, "old", columns=("url", "price", "note")),
                page(1, "/y", 2.0, columns=("url", "price")),
                page(2, 3.0, "/x", columns=("price", "url")),
            ],
        )
        assert await store.items(run, "book") == [
            {"url": "/x", "price": 3.0, "note": None},
            {"url": "/y", "price": 2.0, "note": None},
        ]
        assert (await store.count(run))["items"] == 2

    play(scene)


def test_an_item_without_its_key_fails_its_page_alone(play: Play) -> None:
    async def scene(store: Store) -> None:
        await store.declare(Table(name="book", columns=(Column(name="url"),), key="url"))
        run = await started(store)
        numbers = await seeded(store, run, link("http://a.test/1"), link("http://a.test/2"))
        epoch = (await claimed(store, run))["a.test"]
        pages = [
            Commit(
                run=run,
                domain="a.test",
                epoch=epoch,
                request=number,
                at=NOW,
                items=(ItemRow(table="book", columns=("url",), values=(url,), ordinal=0),),
            )
            for number, url in zip(numbers, (None, "/y"), strict=True)
        ]
        bad, good = await commit(store, pages)
        assert (bad.applied, good.applied, good.error) == (False, True, None)
        assert bad.error is not None
        assert "url" in bad.error
        counted = await store.count(run)
        assert (counted["failed"], counted["done"], counted["errors"]) == (1, 1, 1)
        assert await store.items(run, "book") == [{"url": "/y"}]

    play(scene)


def test_a_table_without_a_key_keeps_one_row_per_request_and_ordinal(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        numbers = await seeded(store, run, link("http://a.test/1"), link("http://a.test/2"))
        epoch = (await claimed(store, run))["a.test"]
        same: dict[str, Any] = {"run": run, "domain": "a.test", "epoch": epoch, "at": NOW}

        def items(*names: str) -> tuple[ItemRow, ...]:
            return tuple(
                ItemRow(table="items", columns=("name",), values=(name,), ordinal=n)
                for n, name in enumerate(names)
            )

        put_back = Commit(request=numbers[0], state=State.QUEUED, items=items("a", "b"), **same)
        done = Commit(request=numbers[0], items=items("A"), **same)
        other = Commit(request=numbers[1], items=items("c"), **same)
        await commit(store, [put_back, done, other])
        rows = await store.items(run, "items")
        assert [row["name"] for row in rows] == ["A", "b", "c"]
        assert (await store.count(run))["items"] == 3
        assert await store.tables() == ["items"]

    play(scene)


def test_mappings_grow_their_table_and_keep_their_values(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        values: list[dict[str, Any]] = [
            {"a": 12345, "b": "x"},
            {"a": "01234", "C": 2**63 - 1},
            {"c": float("inf"), "d": b"\x00\xff", "b": "nul\0inside"},
            {"e": None, "a": -(2**63)},
        ]
        numbers = await seeded(store, run, *(link(f"http://a.test/{n}") for n in range(4)))
        epoch = (await claimed(store, run))["a.test"]
        for number, value in zip(numbers, values, strict=True):
            item = ItemRow(table="items", columns=(*value,), values=(*value.values(),), ordinal=0)
            page = Commit(
                run=run, domain="a.test", epoch=epoch, request=number, at=NOW, items=(item,)
            )
            assert (await commit(store, [page]))[0].error is None
        rows = await store.items(run, "items")
        assert list(rows[0]) == ["a", "b", "C", "d", "e"]
        assert [row["a"] for row in rows] == [12345, "01234", None, -(2**63)]
        assert [row["C"] for row in rows] == [None, 2**63 - 1, float("inf"), None]
        assert (rows[2]["b"], rows[2]["d"]) == ("nul\0inside", b"\x00\xff")

    play(scene)


def test_a_declared_table_grows_but_does_not_change(play: Play) -> None:
    async def scene(store: Store) -> None:
        a, b = Column(name="a"), Column(name="b", type="INTEGER")
        await store.declare(Table(name="thing", columns=(a,), key="a"))
        await store.declare(Table(name="thing", columns=(a, b), key="a"))
        run = await started(store)
        assert await store.items(run, "thing") == []
        for changed in (
            Table(name="thing", columns=(Column(name="a", type="REAL"),), key="a"),
            Table(name="thing", columns=(a, b), key="b"),
            Table(name="thing", columns=(a, b)),
            Table(name="requests"),
            Table(name="v_mine"),
            Table(name="other", columns=(a,), key="b"),
        ):
            with pytest.raises(StorageError):
                await store.declare(changed)
        with pytest.raises(StorageError):
            await store.items(run, "unheard_of")

    play(scene)


def test_failing_a_domain_fails_all_that_it_has_queued_and_nothing_else(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        numbers = await seeded(
            store,
            run,
            link("http://a.test/1"),
            link("http://a.test/2", not_before=NOW + 9),
            link("http://a.test/3"),
            link("http://b.test/", "b.test"),
        )
        epochs = await claimed(store, run)
        done = Commit(run=run, domain="a.test", epoch=epochs["a.test"], request=numbers[0], at=NOW)
        await commit(store, [done])
        how: dict[str, Any] = {"reason": "domain-unreachable", "message": "no answer", "at": NOW}
        assert await store.fail_domain(run, "a.test", epochs["a.test"] - 1, **how) == 0
        assert await store.fail_domain(run, "nowhere.test", 1, **how) == 0
        assert await store.fail_domain(run, "a.test", epochs["a.test"], **how) == 2
        assert await urls(store, run) == []
        assert await urls(store, run, "b.test") == ["http://b.test/"]
        counted = await store.count(run)
        assert (counted["queued"], counted["waiting"], counted["failed"]) == (1, 0, 2)
        assert (counted["done"], counted["errors"]) == (1, 1)
        assert store.knows(run, link("http://a.test/3").fingerprint)

    play(scene)


def test_a_run_is_finished_when_seeded_and_nothing_is_queued_or_sent(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        assert not await store.is_finished(run)
        (ack,) = await commit(store, [Commit(run=run, at=NOW, links=(link("http://a.test/"),))])
        epoch = (await claimed(store, run))["a.test"]
        same: dict[str, Any] = {"run": run, "domain": "a.test", "epoch": epoch}
        same["request"] = ack.inserted[0]
        await commit(store, [Commit(run=run, at=NOW + 3, seeded=True)])
        assert (await store.runs())[0].seeded_at == NOW + 3
        assert not await store.is_finished(run)
        await commit(store, [Commit(state=State.SENT, at=NOW, **same)])
        assert await urls(store, run) == []
        assert not await store.is_finished(run)
        await commit(store, [Commit(state=State.DONE, at=NOW, **same)])
        assert await store.is_finished(run)

    play(scene)


def test_what_was_sent_when_the_process_died_is_unknown_and_not_repeated(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        (number,) = await seeded(store, run, link("http://a.test/"))
        epoch = (await claimed(store, run))["a.test"]
        sent = Commit(
            run=run, domain="a.test", epoch=epoch, request=number, state=State.SENT, at=NOW
        )
        await commit(store, [sent])
        await store.resume(run, settings="{}", code_hash="", pid=0)
        assert await store.is_finished(run)
        counted = await store.count(run)
        assert (counted["queued"], counted["failed"], counted["errors"]) == (0, 1, 1)

    play(scene)


def test_origins_are_the_domains_of_start_urls(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        await seeded(
            store,
            run,
            link("http://b.test/", "b.test"),
            link("http://a.test/", "a.test"),
            link("http://c.test/", "c.test", depth=1),
        )
        assert await store.origins(run) == ["b.test", "a.test"]
        assert await store.origins(run + 1) == []

    play(scene)


def test_fetches_errors_and_pace_are_counted(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        (number,) = await seeded(store, run, link("http://a.test/"))
        epoch = (await claimed(store, run))["a.test"]
        page = Commit(
            run=run,
            domain="a.test",
            epoch=epoch,
            request=number,
            state=State.FAILED,
            reason="callback",
            at=NOW,
            duplicates=4,
            fetches=(
                FetchRow(attempt=1, error="reset", decision="retry", started_at=NOW),
                FetchRow(attempt=2, status=200, started_at=NOW, reused=False, bytes_received=10),
                FetchRow(attempt=3, status=200, started_at=NOW, reused=True, bytes_received=5),
            ),
            errors=(ErrorRow(code="callback", message="boom"), ErrorRow(code="x", message="")),
            pace=DomainRow(state="throttled", delay=2.0, concurrency=1, connections=3),
        )
        await commit(store, [page])
        counted = await store.count(run)
        assert {name: counted[name] for name in ("fetches", "errors", "duplicates", "retries")} == {
            "fetches": 3,
            "errors": 2,
            "duplicates": 4,
            "retries": 1,
        }
        assert (counted["new_connections"], counted["reused_connections"]) == (1, 1)
        assert counted["bytes_received"] == 15

    play(scene)


def test_a_failure_that_nobody_explained_is_one_error(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        (number,) = await seeded(store, run, link("http://a.test/"))
        epoch = (await claimed(store, run))["a.test"]
        page = Commit(
            run=run,
            domain="a.test",
            epoch=epoch,
            request=number,
            state=State.FAILED,
            reason="http-404",
            at=NOW,
        )
        await commit(store, [page])
        assert (await store.count(run))["errors"] == 1

    play(scene)


def test_the_store_knows_accepted_rows_until_they_are_dropped(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        page = link("http://a.test/")
        (number,) = await seeded(store, run, page)
        assert store.knows(run, page.fingerprint)
        assert not store.knows(run + 1, page.fingerprint)
        epoch = (await claimed(store, run))["a.test"]
        dropped = Commit(
            run=run,
            domain="a.test",
            epoch=epoch,
            request=number,
            state=State.DROPPED,
            reason="robots",
            at=NOW,
        )
        await commit(store, [dropped])
        assert not store.knows(run, page.fingerprint)

    play(scene)


def test_many_pages_at_once_are_all_answered_in_order(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        numbers = await seeded(store, run, *(link(f"http://a.test/{n}") for n in range(700)))
        epoch = (await claimed(store, run))["a.test"]
        pages = [
            Commit(
                run=run,
                domain="a.test",
                epoch=epoch,
                request=number,
                at=NOW,
                links=(link(f"http://b.test/{number}", "b.test"),),
            )
            for number in numbers
        ]
        waiting = [asyncio.create_task(store.commit([page])) for page in pages]
        acks = await store.commit([])
        for task in waiting:
            acks += await task
        store.hurry()
        assert all(ack.applied for ack in acks)
        inserted = [ack.inserted[0] for ack in acks]
        assert inserted == sorted(inserted, key=lambda number: number or 0)
        assert (await store.count(run))["done"] == 700
        assert len(await store.window(run, "b.test", 1_000)) == 700

    play(scene)


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
