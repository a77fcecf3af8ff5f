"""Databases with a finished or interrupted run in them, written by the store itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from crawler.urls import canonicalise
from storage import (
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
    Table,
)
from storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

    from storage import QueuedRequest

STARTED_AT = 1_700_000_000.0
HOST = "shop.test"


def write_run(
    file: Path,
    *,
    spider: str = "books",
    pages: int = 3,
    failed: int = 0,
    dropped: int = 0,
    queued: int = 0,
    tables: tuple[str, ...] = ("book",),
    title: str = "A Book",
    started_at: float = STARTED_AT,
    settings: str = "{}",
    state: RunState = RunState.FINISHED,
) -> None:
    """Add a run of `pages` done pages, each an item in every table, to a database."""

    async def write() -> None:
        store = await SqliteStore.open(file)
        try:
            run = await store.begin(
                RunSpec(spider=spider, started_at=started_at, settings=settings)
            )
            await store.note(run.id, "command", f'["{spider}"]')
            for table in tables:
                await store.declare(_table(table))
            links = [_link(n) for n in range(pages + failed + queued)]
            links += [_link(1_000 + n, dropped="robots") for n in range(dropped)]
            seeds = Commit(run=run.id, links=tuple(links), seeded=True, at=started_at)
            await store.commit([seeds])
            (claim,) = await store.claim("test", [run.id], 8, started_at)
            rows = await store.window(run.id, HOST, pages + failed)
            commits = [
                _done(row, claim.epoch, tables, title, started_at)
                if n < pages
                else _failed(row, claim.epoch, started_at)
                for n, row in enumerate(rows)
            ]
            await store.commit(commits)
            await store.end(
                run.id,
                state,
                at=started_at + 10.0,
                ended_by="finished" if state is RunState.FINISHED else "signal",
                stats='{"clients_peak": 1, "evictions": 0}',
            )
        finally:
            await store.aclose()

    asyncio.run(write())


def _table(name: str) -> Table:
    columns = (
        Column(name="url"),
        Column(name="title"),
        Column(name="price", type="REAL"),
        Column(name="cover", type="BLOB"),
    )
    return Table(name=name, columns=columns, key="url")


def _link(n: int, dropped: str | None = None) -> NewRequest:
    target = canonicalise(f"http://{HOST}/{n}")
    return NewRequest(fingerprint=target.fingerprint, domain=HOST, url=target.url, dropped=dropped)


def _done(row: QueuedRequest, epoch: int, tables: tuple[str, ...], title: str, at: float) -> Commit:
    items = tuple(
        ItemRow(
            table=table,
            columns=("url", "title", "price", "cover"),
            values=(row.url, title, 9.5, b"\x00\xff"),
            ordinal=ordinal,
        )
        for ordinal, table in enumerate(tables)
    )
    fetch = FetchRow(
        attempt=1,
        status=200,
        started_at=at + 1,
        ttfb_s=0.25,
        total_s=0.5,
        bytes_received=2_048,
        reused=row.id > 1,
        connect_s=0.01 if row.id == 1 else None,
    )
    return Commit(
        run=row.run,
        domain=HOST,
        epoch=epoch,
        request=row.id,
        at=at + 2,
        attempts=1,
        items=items,
        fetches=(fetch,),
        pace=DomainRow(delay=2.0, concurrency=1, connections=1),
    )


def _failed(row: QueuedRequest, epoch: int, at: float) -> Commit:
    fetch = FetchRow(
        attempt=1, status=404, error="http-404", decision="give-up", started_at=at + 1, total_s=0.1
    )
    return Commit(
        run=row.run,
        domain=HOST,
        epoch=epoch,
        request=row.id,
        state=State.FAILED,
        reason="http-404",
        attempts=1,
        at=at + 2,
        fetches=(fetch,),
        errors=(ErrorRow(code="http-404", message="gone\x1b[31m"),),
    )
