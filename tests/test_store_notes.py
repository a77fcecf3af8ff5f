"""What stores keep about a run for commands, and the mark that rows were replaced."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from storage import open_store
from tests.feeding import BOOK, Shelf
from tests.store_rows import on_each_store, opened, started

if TYPE_CHECKING:
    from pathlib import Path

    from storage import Store
    from tests.store_rows import Play

# pytest knows a fixture by its name in the module.
play = on_each_store

REPLACED = "SELECT run, code, n FROM tally WHERE kind = 7 AND domain = 0 ORDER BY code"


def test_a_note_is_kept_per_run_and_key_until_it_is_replaced_or_removed(play: Play) -> None:
    async def scene(store: Store) -> None:
        one, two = await started(store), await started(store)
        await store.note(one, "a", "1")
        await store.note(one, "b", "x")
        await store.note(two, "a", "\0 ä")
        await store.note(one, "a", "2")
        await store.note(one, "b", None)
        await store.note(one, "c", None)
        assert await store.notes(one) == {"a": "2"}
        assert (await store.notes(two), await store.notes(99)) == ({"a": "\0 ä"}, {})

    play(scene)


def test_a_note_outlives_its_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "x.db") as store:
            run = await started(store)
            await store.note(run, "a", "1")
        async with opened(tmp_path / "x.db") as store:
            assert await store.notes(run) == {"a": "1"}

    asyncio.run(main())


def test_rows_that_were_there_before_and_were_replaced_are_counted(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        shelf.declare(BOOK)
        shelf.put("book", {"k": "a", "n": 1}, {"k": "a", "n": 2}, {"k": "b", "n": 1})
        shelf.put("plain", {"x": 1})
        shelf.put("plain", {"x": 1})
        with closing(sqlite3.connect(shelf.path)) as connection:
            assert connection.execute(REPLACED).fetchall() == []
            shelf.put("book", {"k": "a", "n": 3}, {"k": "a", "n": 4}, {"k": "c", "n": 1})
            assert connection.execute(REPLACED).fetchall() == [(1, "book", 1)]
            shelf.put("BOOK", {"k": "b", "n": 3}, {"k": "c", "n": 4})
            assert connection.execute(REPLACED).fetchall() == [(1, "book", 3)]


def test_what_a_crash_leaves_is_dated_by_its_pages_and_not_by_the_mark(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        shelf.declare(BOOK)
        for n in range(2):
            shelf.put("book", {"k": "a", "n": n})

    async def ended_at() -> float | None:
        store = await open_store(tmp_path / "shelf.db")
        (run,) = await store.runs()
        await store.aclose()
        return run.finished_at

    assert asyncio.run(ended_at()) == 1.0
