"""What only a file has: other processes, crashes, refused data, groups, exports."""

from __future__ import annotations

import asyncio
import io
import os
import sqlite3
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from storage import (
    Column,
    Commit,
    ErrorRow,
    FetchRow,
    ItemRow,
    NewRequest,
    RunSpec,
    RunState,
    State,
    StorageError,
    Table,
)
from storage.export import write_rows
from storage.known import Known
from storage.reading import Reader
from storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_000_000.0


def link(n: int, domain: str = "a.test", **more: Any) -> NewRequest:
    url = f"http://{domain}/{n}"
    return NewRequest(fingerprint=n.to_bytes(16, "big"), domain=domain, url=url, **more)


async def prepared(store: SqliteStore, pages: int) -> list[Commit]:
    """A run with that many queued requests, and a plain page for each."""
    run = (await store.begin(RunSpec(spider="books", started_at=NOW))).id
    links = tuple(link(n) for n in range(pages))
    (ack,) = await store.commit([Commit(run=run, links=links, at=NOW, seeded=True)])
    await store.release("w", ["a.test"])
    (claim,) = await store.claim("w", [run], 1, NOW)
    return [
        Commit(run=run, domain="a.test", epoch=claim.epoch, request=number, at=NOW)
        for number in ack.inserted
    ]


def with_items(page: Commit, *items: ItemRow, **more: Any) -> Commit:
    kept = {name: getattr(page, name) for name in ("run", "domain", "epoch", "request", "at")}
    return Commit(**(kept | more), items=items)


def item(table: str = "items", /, **fields: Any) -> ItemRow:
    return ItemRow(table=table, columns=(*fields,), values=(*fields.values(),), ordinal=0)


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with Reader(path) as reader:
        return reader.query(sql)[1]


def test_a_bad_page_in_a_group_fails_alone_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"
    bad = [
        item(name=2**70),
        item(name="\ud800"),
        item(name=object()),
        item("runs", name="x"),
        item(_secret=1),
        item(Name=1, name=2),
        item(**dict.fromkeys([f"c{n}" for n in range(1_001)])),
    ]

    async def main() -> None:
        store = await SqliteStore.open(path)
        pages = await prepared(store, len(bad) + 2)
        acks = await store.commit(
            [
                with_items(pages[0], item(name="first")),
                *(
                    with_items(page, it, links=(link(99),))
                    for page, it in zip(pages[1:], bad, strict=False)
                ),
                with_items(pages[-1], item(name="last", extra=1)),
            ]
        )
        assert [ack.applied for ack in acks] == [True, *[False] * len(bad), True]
        assert all(ack.error for ack in acks[1:-1])
        assert store.stats().refused == len(bad)
        assert not store.knows(pages[0].run, link(99).fingerprint)
        await store.aclose()

    asyncio.run(main())
    assert rows(path, "SELECT name, extra FROM items") == [("first", None), ("last", 1)]
    failed = rows(path, "SELECT state, reason, count(*) FROM requests WHERE state = 'failed'")
    assert failed == [("failed", "store", len(bad))]
    assert rows(path, "SELECT code, count FROM v_errors") == [("store", len(bad))]


def test_a_group_takes_a_bounded_number_of_statements(tmp_path: Path) -> None:
    async def main() -> None:
        store = await SqliteStore.open(tmp_path / "crawl.db")
        pages = await prepared(store, 180)
        full = [
            with_items(
                page,
                item(name="x", page=n),
                links=(link(1_000 + n, "b.test"),),
                fetches=(FetchRow(attempt=1, status=200, started_at=NOW, ttfb_s=0.1),),
                errors=(ErrorRow(code="callback", message="boom"),),
            )
            for n, page in enumerate(pages)
        ]
        await store.commit([full.pop()])
        statements: list[str] = []
        store._writing.set_trace_callback(lambda sql: statements.append(sql[:40]))
        assert all(ack.applied for ack in await store.commit(full))
        store._writing.set_trace_callback(None)
        assert len(statements) <= 24, statements
        await store.aclose()

    asyncio.run(main())


def test_a_request_that_comes_twice_in_one_batch_is_applied_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        store = await SqliteStore.open(tmp_path / "crawl.db")
        (page,) = await prepared(store, 1)
        acks = await store.commit(
            [with_items(page, state=State.QUEUED, attempts=2), page, with_items(page, item(x=1))]
        )
        assert [ack.applied for ack in acks] == [True, True, False]
        assert await store.tables() == []
        await store.aclose()

    asyncio.run(main())


def test_a_group_waits_for_more_pages_unless_hurried(tmp_path: Path) -> None:
    async def main() -> None:
        store = await SqliteStore.open(tmp_path / "crawl.db")
        pages = await prepared(store, 30)
        before = store.stats().groups
        tasks = [asyncio.create_task(store.commit([page])) for page in pages]
        await asyncio.sleep(0)
        store.hurry()
        await asyncio.gather(*tasks)
        assert store.stats().groups == before + 1
        await store.aclose()

    asyncio.run(main())


def test_a_run_left_by_a_dead_process_is_interrupted_and_its_queue_is_kept(
    tmp_path: Path,
) -> None:
    path = tmp_path / "crawl.db"
    script = f"""
import asyncio, os, sys
sys.path.insert(0, {str(os.getcwd())!r})
from tests.test_sqlite_store import SqliteStore, prepared

async def main():
    store = await SqliteStore.open({str(path)!r})
    first, *_ = await prepared(store, 3)
    await store.commit([first])
    os._exit(9)

asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert rows(path, "SELECT state FROM runs") == [("running",)]

    async def main() -> None:
        store = await SqliteStore.open(path)
        (run,) = await store.runs()
        assert (run.state, run.ended_by) == (RunState.INTERRUPTED, "crash")
        assert run.finished_at is not None
        await store.resume(run.id, settings="{}", code_hash="", pid=1)
        (claim,) = await store.claim("w", [run.id], 5, NOW)
        window = await store.window(run.id, "a.test", 5)
        assert [row.id for row in window] == [2, 3]
        more = Commit(
            run=run.id, domain="a.test", epoch=claim.epoch, request=2, at=NOW, links=(link(7),)
        )
        assert (await store.commit([more]))[0].inserted == (4,)
        await store.aclose()

    asyncio.run(main())


def test_a_killed_process_leaves_every_page_whole_and_no_acknowledged_one_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "crawl.db"
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(os.getcwd())!r})
from tests.test_sqlite_store import SqliteStore, item, link, prepared, with_items

async def page(store, commit, n):
    await store.commit([with_items(commit, item(n=n), links=(link(10_000 + n),))])
    print(n, flush=True)

async def main():
    store = await SqliteStore.open({str(path)!r})
    pages = await prepared(store, 5_000)
    await asyncio.gather(*(page(store, commit, n) for n, commit in enumerate(pages)))
    await asyncio.sleep(60)

asyncio.run(main())
"""
    acknowledged = set()
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            acknowledged.add(int(line))
            if len(acknowledged) == 700:
                child.kill()
                break

    async def reopen() -> None:
        await (await SqliteStore.open(path)).aclose()

    asyncio.run(reopen())
    stored = {n for (n,) in rows(path, "SELECT n FROM items")}
    done = {number - 1 for (number,) in rows(path, "SELECT id FROM requests WHERE state = 'done'")}
    links = {parent - 1 for (parent,) in rows(path, "SELECT parent FROM requests WHERE parent > 0")}
    assert acknowledged <= stored
    assert stored == done == links
    ((counted,),) = rows(path, "SELECT done FROM v_runs")
    assert counted == len(done)


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(os.getcwd())!r})
from storage.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open({str(path)!r})
    print("open", flush=True)
    sys.stdin.readline()
    await store.aclose()

asyncio.run(main())
"""

    async def refused() -> str:
        with pytest.raises(StorageError) as caught:
            await SqliteStore.open(path)
        assert caught.value.hint is not None
        return str(caught.value)

    async def accepted() -> None:
        await (await SqliteStore.open(path)).aclose()

    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        assert str(child.pid) in asyncio.run(refused())
        child.communicate("go\n")
    asyncio.run(accepted())
    assert sorted(os.listdir(tmp_path)) == ["crawl.db"]


@pytest.mark.parametrize("content", ["text", "database"])
def test_a_foreign_file_is_refused_and_left_as_it_was(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.db"
    if content == "text":
        path.write_text("my notes, not a database\n" * 100)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE mine (x)")
        connection.close()
    before = path.read_bytes()

    async def main() -> None:
        with pytest.raises(StorageError, match=r"mine\.db") as caught:
            await SqliteStore.open(path)
        assert caught.value.hint is not None

    asyncio.run(main())
    with pytest.raises(StorageError):
        Reader(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["mine.db"]


def test_files_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    async def main() -> None:
        store = await SqliteStore.open(tmp_path / "crawl.db")
        await prepared(store, 1)
        for name in os.listdir(tmp_path):
            assert stat.S_IMODE(os.stat(tmp_path / name).st_mode) == 0o600, name
        await store.aclose()
        await store.aclose()
        with pytest.raises(StorageError):
            await store.runs()
        with pytest.raises(StorageError):
            await store.begin(RunSpec(spider="x", started_at=NOW))

    asyncio.run(main())


def test_values_come_back_as_they_were_stored(tmp_path: Path) -> None:
    values = ["a\0b", "", "ünï", 2**63 - 1, -(2**63), float("inf"), 0.1 + 0.2, b"\0\xff", None]

    async def main() -> None:
        store = await SqliteStore.open(tmp_path / "crawl.db")
        pages = await prepared(store, 1)
        fields: dict[str, Any] = {f"f{n}": value for n, value in enumerate(values)}
        await store.commit([with_items(pages[0], item(**fields))])
        (row,) = await store.items(pages[0].run, "items")
        assert list(row.values()) == values
        await store.aclose()

    asyncio.run(main())


def test_the_latest_view_shows_the_newest_run_of_each_key(tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"

    async def main() -> None:
        store = await SqliteStore.open(path)
        columns = (Column(name="url"), Column(name="rowid", type="INTEGER"))
        await store.declare(Table(name="book", columns=columns, key="url"))
        for n in range(2):
            pages = await prepared(store, 3)
            keyed = [item("book", url="/both", rowid=n), item("book", url=f"/{n}", rowid=n)]
            await store.commit(
                [
                    *(with_items(page, it) for page, it in zip(pages, keyed, strict=False)),
                    with_items(pages[2], item(n=n)),
                ]
            )
        await store.aclose()

    asyncio.run(main())
    latest = rows(path, "SELECT url, rowid, _run FROM book_latest ORDER BY url")
    assert latest == [("/0", 0, "books-1"), ("/1", 1, "books-2"), ("/both", 1, "books-2")]
    assert rows(path, "SELECT n, _run FROM items_latest") == [(1, "books-2")]


def test_a_reader_sees_a_running_crawl_but_cannot_write_or_take_for_ever(
    tmp_path: Path,
) -> None:
    path = tmp_path / "crawl.db"

    async def main() -> None:
        store = await SqliteStore.open(path)
        pages = await prepared(store, 2)
        await store.commit(pages[:1])
        assert rows(path, "SELECT done, queued FROM v_runs") == [(1, 1)]
        with Reader(path, query_s=0.05) as reader:
            for sql, said in (
                ("DELETE FROM run", "read-only"),
                ("SELECT * FROM missing", "no such table"),
                ("SELECT 1; SELECT 2", "one statement"),
                ("SELEC 1", "syntax"),
            ):
                with pytest.raises(StorageError, match=said):
                    reader.query(sql)
            endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
            with pytest.raises(StorageError, match="more than") as caught:
                reader.query(f"{endless} SELECT max(i) FROM n")
            assert caught.value.hint is not None
            assert reader.query("SELECT :x AS x", {"x": 5}) == (["x"], [(5,)])
        await store.aclose()

    asyncio.run(main())
    with pytest.raises(StorageError, match="there is no database"):
        Reader(tmp_path / "missing.db")


def test_items_are_exported_in_three_formats(tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"

    async def main() -> None:
        store = await SqliteStore.open(path)
        pages = await prepared(store, 2)
        items = [item(name="=1+1", n=-1), item(name="a,b", n=2.5)]
        await store.commit([with_items(p, i) for p, i in zip(pages, items, strict=True)])
        await store.aclose()

    asyncio.run(main())

    def exported(form: str, **more: Any) -> str:
        stream = io.StringIO()
        with Reader(path) as reader:
            write_rows(*reader.items("items", **more), stream, form)
        return stream.getvalue()

    assert exported("jsonl") == '{"name":"=1+1","n":-1}\n{"name":"a,b","n":2.5}\n'
    assert exported("json") == '[\n {"name":"=1+1","n":-1},\n {"name":"a,b","n":2.5}\n]\n'
    assert exported("csv") == 'name,n\n\'=1+1,-1\n"a,b",2.5\n'
    assert exported("json", run="books-2") == "[]\n"
    with pytest.raises(ValueError, match="none of"):
        exported("xml")


def test_a_commit_that_meets_a_broken_file_raises_and_the_store_goes_on(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        store = await SqliteStore.open(tmp_path / "crawl.db")
        pages = await prepared(store, 2)
        (pages_used,) = store._writing.execute("PRAGMA page_count").fetchone()
        store._writing.execute(f"PRAGMA max_page_count = {pages_used}")
        big = with_items(pages[0], item(text="x" * 1_000_000))
        with pytest.raises(StorageError, match="full") as caught:
            await store.commit([big])
        assert caught.value.hint is not None
        store._writing.execute("PRAGMA max_page_count = 1000000")
        assert [ack.applied for ack in await store.commit([big, pages[1]])] == [True, True]
        await store.aclose()

    asyncio.run(main())


def test_known_fingerprints_stay_within_their_bound_and_the_newest_are_kept() -> None:
    known = Known(capacity=100)
    known.update((1, n.to_bytes(16, "big")) for n in range(1_000))
    assert len(known) <= 100
    assert known.has(1, (999).to_bytes(16, "big"))
    assert not known.has(2, (999).to_bytes(16, "big"))
    assert not known.has(1, (1).to_bytes(16, "big"))
    known.discard(1, (999).to_bytes(16, "big"))
    assert not known.has(1, (999).to_bytes(16, "big"))
