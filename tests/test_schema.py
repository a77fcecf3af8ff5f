"""The public names of the database, and what reading them costs."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from storage import (
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
)
from storage.reading import Reader
from storage.schema import HTTP_VERSIONS, TABLES, VIEWS, is_reserved
from storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_200_000.0

PUBLIC = {
    "runs": "id spider state started_at finished_at seeded_at arguments settings code_hash",
    "requests": "id run url method domain state reason priority depth attempts not_before"
    " parent redirect_of discovered_at finished_at",
    "fetches": "id run request domain url attempt status error decision started_at wait_s"
    " dns_s connect_s tls_s ttfb_s body_s total_s bytes_received reused nth http_version peer"
    " proxy generation replays",
    "domains": "run domain state queued done failed next_at delay concurrency requests"
    " new_connections reused_connections",
    "v_runs": "id spider state started_at seconds queued done failed dropped requests retries"
    " errors items duplicates bytes_received new_connections reused_connections reuse"
    " clients_peak evictions ended_by",
    "v_domains": "run domain state queued done failed bytes_received retries errors items s2xx"
    " s3xx s4xx s5xx mean_ttfb_s",
    "v_drops": "run domain reason count",
    "v_errors": "run domain code count last_at message url",
    "v_problems": "id run request domain at code message detail url state",
    "v_queue": "run domain queued waiting next_at",
    "v_pools": "run domain concurrency connections clients requests new_connections"
    " reused_connections reuse requests_per_connection replays peer_closes connect_failures"
    " mean_dns_s mean_connect_s mean_tls_s mean_ttfb_s mean_wait_s bytes_received",
    "v_slowest": "run domain requests mean_ttfb_s mean_total_s",
    "v_statuses": "run domain status count",
    "v_latency": "run domain below_ms count",
    "v_phases": "run wait_s connect_s ttfb_s body_s total_s",
    "v_throughput": "run minute_at pages errors",
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run: a page, its redirect, a failure, a retry that waits, a refusal."""
    path = tmp_path_factory.mktemp("schema") / "crawl.db"
    asyncio.run(_crawl(path))
    return path


async def _crawl(path: Path) -> None:
    store = await SqliteStore.open(path)
    run = (await store.begin(RunSpec(spider="books", started_at=NOW))).id

    def link(n: int, **more: Any) -> NewRequest:
        url = f"http://a.test/{n}"
        return NewRequest(fingerprint=bytes([n] * 16), domain="a.test", url=url, **more)

    (ack,) = await store.commit(
        [Commit(run=run, links=tuple(link(n) for n in range(4)), at=NOW, seeded=True)]
    )
    (claim,) = await store.claim("w", [run], 1, NOW)
    same: dict[str, Any] = {"run": run, "domain": "a.test", "epoch": claim.epoch}

    def fetched(status: int | None, **more: Any) -> tuple[FetchRow]:
        times: dict[str, Any] = {"started_at": NOW, "wait_s": 0.5, "ttfb_s": 0.25, "total_s": 1.0}
        return (FetchRow(attempt=1, status=status, bytes_received=100, **times, **more),)

    first, second, third, fourth = ack.inserted
    thing = ItemRow(table="things", columns=("x",), values=(1,), ordinal=0)
    opened: dict[str, Any] = {"reused": False, "nth": 1, "peer": "127.0.0.2", "connect_s": 0.125}
    opened |= {"dns_s": 0.03125, "tls_s": 0.0625, "http_version": "HTTP/2"}
    pace = DomainRow(
        state="throttled",
        next_at=NOW + 9,
        delay=1.5,
        concurrency=2,
        connections=2,
        peer_closes=5,
        generation=3,
    )
    await store.commit(
        [
            Commit(
                request=first,
                at=NOW,
                fetches=fetched(200, **opened),
                items=(thing,),
                links=(link(9, dropped="scope"), link(1)),
                pace=pace,
                **same,
            ),
            Commit(
                request=second,
                reason="redirected",
                at=NOW + 1,
                fetches=fetched(301, reused=True, nth=2, peer="127.0.0.2", decision="redirect"),
                links=(link(5, is_redirect=True, method="POST"),),
                **same,
            ),
            Commit(
                request=third,
                state=State.FAILED,
                reason="callback",
                at=NOW + 60,
                fetches=fetched(200, reused=True),
                errors=(ErrorRow(code="callback", message="boom", detail="line 1"),),
                **same,
            ),
            Commit(
                request=fourth,
                state=State.QUEUED,
                attempts=1,
                not_before=NOW + 70,
                at=NOW + 61,
                fetches=fetched(
                    503, reused=True, decision="retry", proxy="p", generation=3, replays=1
                ),
                pace=DomainRow(
                    state="throttled",
                    next_at=NOW + 9,
                    delay=1.5,
                    concurrency=2,
                    connections=1,
                    peer_closes=4,
                    generation=2,
                ),
                **same,
            ),
        ]
    )
    stats = '{"clients_peak": 3, "evictions": 1}'
    await store.end(run, RunState.WAITING, at=NOW + 62, ended_by="waiting", stats=stats)
    await store.aclose()


def ask(path: Path, sql: str) -> list[dict[str, Any]]:
    with Reader(path) as reader:
        columns, rows = reader.query(sql)
    return [dict(zip(columns, row, strict=True)) for row in rows]


@pytest.mark.parametrize("view", PUBLIC)
def test_public_views_have_the_columns_that_others_rely_on(database: Path, view: str) -> None:
    rows = ask(database, f"SELECT * FROM {view}")
    assert rows, f"{view} is empty"
    assert set(PUBLIC[view].split()) <= set(rows[0])


def test_every_public_name_is_a_view_and_every_view_is_public() -> None:
    assert {view.name for view in VIEWS} == set(PUBLIC)
    assert not {table.name for table in TABLES} & set(PUBLIC)


@pytest.mark.parametrize("view", sorted(set(PUBLIC) - {"requests", "fetches"}))
def test_no_statistic_reads_the_queue_or_the_log(database: Path, view: str) -> None:
    read = set()

    def authorise(action: int, table: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_READ:
            read.add(table)
        return sqlite3.SQLITE_OK

    connection = sqlite3.connect(database)
    connection.set_authorizer(authorise)
    plan = [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {view}")]
    connection.close()
    if view in ("v_errors", "v_problems"):  # the URL, by its row's number
        assert "SEARCH q USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN" in plan
        read.remove("req")
    assert not read & {"req", "fetch_log"}


def test_views_speak_words_and_names(database: Path) -> None:
    states = ask(database, "SELECT url, state, reason, method FROM requests ORDER BY id")
    assert [(row["state"], row["reason"]) for row in states] == [
        ("done", None),
        ("done", "redirected"),
        ("failed", "callback"),
        ("queued", None),
        ("dropped", "scope"),
        ("queued", None),
    ]
    (target,) = ask(database, "SELECT redirect_of, parent, method FROM requests WHERE id = 6")
    assert target == {"redirect_of": 2, "parent": 2, "method": "POST"}
    fetches = ask(database, "SELECT run, domain, url, decision FROM fetches ORDER BY id")
    assert [row["decision"] for row in fetches] == ["deliver", "redirect", "deliver", "retry"]
    assert fetches[0] == {
        "run": "books-1",
        "domain": "a.test",
        "url": "http://a.test/0",
        "decision": "deliver",
    }
    (run,) = ask(database, "SELECT id, state, seeded_at FROM runs")
    assert run == {"id": "books-1", "state": "waiting", "seeded_at": NOW}


def test_a_fetch_tells_how_it_travelled(database: Path) -> None:
    names = "http_version, nth, generation, replays, peer, dns_s, connect_s, tls_s, body_s"
    rows = ask(database, f"SELECT {names} FROM fetches ORDER BY id")
    assert [list(row.values()) for row in rows] == [
        ["HTTP/2", 1, 1, 0, "127.0.0.2", 0.03125, 0.125, 0.0625, 0.625],
        ["HTTP/1.1", 2, 1, 0, None, None, None, None, 0.75],
        ["HTTP/1.1", None, 1, 0, None, None, None, None, 0.75],
        ["HTTP/1.1", None, 3, 1, None, None, None, None, 0.75],
    ]


@pytest.mark.parametrize("version", [*HTTP_VERSIONS, "HTTP/3"])
def test_any_http_version_comes_back_as_it_was_given(tmp_path: Path, version: str) -> None:
    path = tmp_path / "crawl.db"

    async def main() -> None:
        store = await SqliteStore.open(path)
        run = (await store.begin(RunSpec(spider="books", started_at=NOW))).id
        answered = FetchRow(attempt=1, status=200, started_at=NOW, http_version=version)
        refused = FetchRow(attempt=1, error="connect-refused", started_at=NOW)
        await store.commit([Commit(run=run, domain="a.test", at=NOW, fetches=(answered, refused))])
        await store.aclose()

    asyncio.run(main())
    rows = ask(path, "SELECT http_version, body_s FROM fetches ORDER BY id")
    assert [row["http_version"] for row in rows] == [version, None]
    assert rows[1]["body_s"] is None
    (pool,) = ask(path, "SELECT * FROM v_pools")
    assert (pool["connect_failures"], pool["requests_per_connection"]) == (1, None)
    assert (pool["mean_dns_s"], pool["mean_connect_s"], pool["mean_ttfb_s"]) == (None, None, None)


def test_statistics_add_up(database: Path) -> None:
    (run,) = ask(database, "SELECT * FROM v_runs")
    assert {name: run[name] for name in ("queued", "done", "failed", "dropped")} == {
        "queued": 2,
        "done": 2,
        "failed": 1,
        "dropped": 1,
    }
    assert (run["requests"], run["retries"], run["errors"], run["items"]) == (4, 1, 1, 1)
    assert (run["duplicates"], run["reuse"], run["seconds"]) == (1, 0.75, 62)
    assert (run["clients_peak"], run["evictions"], run["ended_by"]) == (3, 1, "waiting")
    (domain,) = ask(database, "SELECT * FROM v_domains")
    assert [domain[name] for name in ("s2xx", "s3xx", "s4xx", "s5xx")] == [2, 1, 0, 1]
    assert (domain["mean_ttfb_s"], domain["state"], domain["delay"]) == (0.25, "throttled", 1.5)
    assert ask(database, "SELECT queued, waiting, next_at FROM v_queue") == [
        {"queued": 2, "waiting": 1, "next_at": NOW + 9}
    ]
    assert ask(database, "SELECT * FROM v_pools") == [
        {
            "run": "books-1",
            "domain": "a.test",
            "concurrency": 2,
            "connections": 2,
            "clients": 3,
            "requests": 4,
            "new_connections": 1,
            "reused_connections": 3,
            "reuse": 0.75,
            "requests_per_connection": 4.0,
            "replays": 1,
            "peer_closes": 5,
            "connect_failures": 0,
            "mean_dns_s": 0.03125,
            "mean_connect_s": 0.125,
            "mean_tls_s": 0.0625,
            "mean_ttfb_s": 0.25,
            "mean_wait_s": 0.5,
            "bytes_received": 400,
        }
    ]
    assert ask(database, "SELECT * FROM v_phases") == [
        {
            "run": "books-1",
            "wait_s": 2.0,
            "connect_s": 0.125,
            "ttfb_s": 1.0,
            "body_s": 2.875,
            "total_s": 4.0,
        }
    ]
    assert ask(database, "SELECT minute_at, pages, errors FROM v_throughput") == [
        {"minute_at": NOW, "pages": 2, "errors": 0},
        {"minute_at": NOW + 60, "pages": 0, "errors": 1},
    ]
    assert ask(database, "SELECT * FROM v_errors") == [
        {
            "run": "books-1",
            "domain": "a.test",
            "code": "callback",
            "count": 1,
            "last_at": NOW + 60,
            "message": "boom",
            "detail": "line 1",
            "url": "http://a.test/2",
        }
    ]


def test_the_statements_of_the_crawl_use_their_indexes(database: Path) -> None:
    expected = {
        "SELECT id FROM req WHERE run = 1 AND domain = 1 AND state = 0 AND not_before IS NULL"
        " ORDER BY priority DESC, id LIMIT 9": "req_ready",
        "SELECT min(not_before) FROM req WHERE run = 1 AND state = 0"
        " AND not_before IS NOT NULL": "req_waiting",
        "SELECT 1 FROM req WHERE run = 1 AND state = 1": "req_sent",
        "SELECT domain FROM req WHERE run = 1 AND depth = 0": "req_origin",
    }
    for sql, index in expected.items():
        (step,) = ask(database, f"EXPLAIN QUERY PLAN {sql}")
        assert f"INDEX {index} " in step["detail"]


def test_a_file_of_a_newer_version_is_refused(database: Path, tmp_path: Path) -> None:
    copy = tmp_path / "newer.db"
    copy.write_bytes(database.read_bytes())
    connection = sqlite3.connect(copy)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match="newer") as caught:
        Reader(copy)
    assert caught.value.hint is not None


def test_private_and_public_names_are_no_item_tables() -> None:
    for name in ("runs", "Requests", "req", "v_x", "sqlite_x", "_x", ""):
        assert is_reserved(name)
    assert not is_reserved("books")


def test_sqlite_utils_is_imported_only_to_make_a_schema(database: Path) -> None:
    script = (
        "import asyncio, sys, storage\n"
        "from storage import reading, open_store\n"
        "assert 'sqlite_utils' not in sys.modules\n"
        f"store = asyncio.run(open_store({str(database)!r}))\n"
        "assert 'sqlite_utils' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
