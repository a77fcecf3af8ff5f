"""What every store says of a run's queues, by its counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage import Commit, Queues, State
from tests.store_rows import NOW, claimed, commit, link, on_each_store, seeded, started

if TYPE_CHECKING:
    from pathlib import Path

    from storage import Store
    from tests.store_rows import Play

play = on_each_store


def test_the_longest_queues_come_first_and_all_are_summed(play: Play) -> None:
    async def ask(store: Store) -> None:
        run, other = await started(store), await started(store)
        assert await store.queues(run, 5) == Queues()
        rows = [
            link(f"http://{d}.test/{n}", f"{d}.test") for d in "abc" for n in range(ord(d) - 96)
        ]
        late = link("http://b.test/late", "b.test", not_before=NOW + 60)
        refused = link("http://d.test/", "d.test", dropped="scope")
        await seeded(store, run, *rows, late, refused)
        await seeded(store, other, link("http://a.test/", "a.test"))
        assert await store.queues(run, 2) == Queues(
            queued=7, waiting=1, domains=3, longest=(("b.test", 3, 1), ("c.test", 3, 0))
        )
        assert (await store.queues(other, 5)).longest == (("a.test", 1, 0),)
        assert await store.queues(99, 5) == Queues()

    play(ask)


def test_rows_under_way_count_until_they_are_settled(play: Play) -> None:
    async def ask(store: Store) -> None:
        run = await started(store)
        first, second = await seeded(store, run, link("http://a.test/1"), link("http://a.test/2"))
        epoch = (await claimed(store, run))["a.test"]
        await store.window(run, "a.test", 10)
        assert (await store.queues(run, 5)).queued == 2
        done = Commit(run=run, domain="a.test", epoch=epoch, request=first, at=NOW)
        later = Commit(
            run=run,
            domain="a.test",
            epoch=epoch,
            request=second,
            state=State.QUEUED,
            not_before=NOW + 9,
            at=NOW,
        )
        await commit(store, [done, later])
        assert (await store.queues(run, 5)).longest == (("a.test", 1, 1),)
        await store.fail_domain(run, "a.test", epoch, reason="gone", message="gone", at=NOW)
        assert await store.queues(run, 5) == Queues()

    play(ask)


def test_a_store_knows_its_file(play: Play, tmp_path: Path) -> None:
    async def ask(store: Store) -> None:
        assert store.path in (None, str(tmp_path / "crawl.db"))
        assert (store.stats().bytes > 0) == (store.path is not None)

    play(ask)
