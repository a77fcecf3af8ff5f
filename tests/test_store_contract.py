"""What every store promises, held against SQLite and memory alike."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from storage import (
    Commit,
    DomainRow,
    ErrorRow,
    FetchRow,
    ItemRow,
    RunSpec,
    RunState,
    State,
    StorageError,
)
from tests.store_rows import NOW, claimed, commit, link, on_each_store, seeded, started, urls

if TYPE_CHECKING:
    from storage import Store
    from tests.store_rows import Play

# pytest knows a fixture by its name in the module.
play = on_each_store


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
                FetchRow(attempt=1, error="reset", decision="retry", started_at=NOW, replays=1),
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
        assert (counted["replays"], counted["connect_failures"]) == (1, 0)

    play(scene)


def test_fetches_that_got_no_connection_are_counted_apart(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        before = ("dns", "connect-refused", "connect-timeout", "connect", "tls", "tls-timeout")
        after = ("reset", "head-timeout", "proxy", "local", "http-503")
        codes = (*before, "address", *after)
        fetches = tuple(FetchRow(attempt=1, error=code, started_at=NOW) for code in codes)
        page = Commit(run=run, domain="a.test", at=NOW, fetches=fetches)
        assert [ack.applied for ack in await commit(store, [page, page])] == [True, True]
        counted = await store.count(run)
        assert (counted["connect_failures"], counted["fetches"]) == (14, 24)
        assert (counted["new_connections"], counted["reused_connections"]) == (0, 0)

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
