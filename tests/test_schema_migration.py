"""Files of an older version: what opening them changes, and what it leaves as it was."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crawler.cli import main
from crawler.report import summarise
from storage import Commit, DomainRow, FetchRow, RunState, StorageError, schema
from storage.reading import Reader
from storage.sqlite import SqliteStore
from tests.stored_runs import write_run

NOW = 1_400_000.0
OLD = Path(__file__).with_name("schema_1.sql")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file as version 1 of the schema left it."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text())
    return path


def ask(path: Path, sql: str) -> list[dict[str, Any]]:
    with Reader(path) as reader:
        columns, rows = reader.query(sql)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def migrate(path: Path) -> None:
    async def main() -> None:
        await (await SqliteStore.open(path)).aclose()

    asyncio.run(main())


def layout(path: Path) -> dict[str, set[tuple[str, str]]]:
    """Columns with their types, by table or view."""
    with closing(sqlite3.connect(path)) as connection:
        names = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
            )
        ]
        return {
            name: {
                (column, kind)
                for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({name})")
            }
            for name in names
        }


def test_a_migrated_file_has_the_tables_and_views_of_a_new_one(old: Path) -> None:
    new = old.with_name("new.db")
    migrate(new)
    migrate(old)
    ours = layout(new)
    migrated = layout(old)
    assert {name: migrated[name] for name in ours} == ours
    assert set(migrated) - set(ours) == {"things", "things_latest"}
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_of_version_2_gets_notes_the_index_of_attempts_and_views_of_items(
    tmp_path: Path,
) -> None:
    new, before = tmp_path / "new.db", tmp_path / "before.db"
    for path in (new, before):
        write_run(path, pages=1)
    with closing(sqlite3.connect(before)) as connection:
        connection.execute("DROP TABLE run_note")
        connection.execute("DROP INDEX fetch_log_request")
        connection.execute("DROP VIEW book_latest")
        connection.execute("CREATE VIEW book_latest AS SELECT * FROM book WHERE _rowid_ = 1")
        connection.execute("DELETE FROM _sqlite_migrations WHERE name = '0003-notes'")
        connection.execute("PRAGMA user_version = 2")
        connection.commit()
    migrate(before)
    plans = []
    for path in (new, before):
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")
            query = "EXPLAIN QUERY PLAN SELECT * FROM fetch_log WHERE request = 1"
            plans.append((sorted(found.fetchall()), connection.execute(query).fetchone()[3]))
    assert plans[0] == plans[1]
    assert "USING INDEX fetch_log_request" in plans[0][1]


def test_migrating_twice_changes_nothing_more(old: Path) -> None:
    migrate(old)
    before = ask(old, "SELECT * FROM v_pools"), layout(old)
    migrate(old)
    assert (ask(old, "SELECT * FROM v_pools"), layout(old)) == before


def test_what_an_old_file_held_is_shown_by_the_new_views(old: Path) -> None:
    pages = ask(old, "SELECT * FROM requests")
    migrate(old)
    assert ask(old, "SELECT * FROM requests") == pages
    fetches = ask(
        old,
        "SELECT http_version, nth, generation, replays, peer, dns_s, tls_s, body_s FROM fetches"
        " ORDER BY id",
    )
    plain = {"nth": None, "generation": 1, "replays": 0, "peer": None, "dns_s": None, "tls_s": None}
    assert fetches[0] == {"http_version": "HTTP/1.1", "body_s": 0.625, **plain}
    assert fetches[4] == {"http_version": None, "body_s": None, **plain}
    first, second = ask(old, "SELECT * FROM v_pools ORDER BY run")
    assert (first["run"], first["connections"], first["reuse"]) == ("books-1", 2, 0.75)
    assert (first["requests_per_connection"], first["connect_failures"]) == (4.0, 0)
    assert (second["requests"], second["connect_failures"], second["replays"]) == (4, 2, 0)
    assert (second["mean_connect_s"], second["mean_dns_s"], second["mean_tls_s"]) == (
        0.25,
        None,
        None,
    )
    assert (second["clients"], second["peer_closes"]) == (0, 0)


def test_an_interrupted_run_of_an_old_file_goes_on_and_counts_on(old: Path) -> None:
    async def main() -> None:
        store = await SqliteStore.open(old)
        _, run = await store.runs()
        assert (run.state, run.ended_by) == (RunState.INTERRUPTED, "crash")
        await store.resume(run.id, settings="{}", code_hash="", pid=1)
        (claim,) = await store.claim("w", [run.id], 5, NOW)
        (row,) = await store.window(run.id, "b.test", 5)
        fetch = FetchRow(
            attempt=1,
            status=200,
            started_at=NOW,
            reused=False,
            connect_s=0.75,
            dns_s=0.25,
            tls_s=0.125,
            peer="127.0.0.9",
            nth=1,
            replays=1,
            ttfb_s=0.5,
            total_s=2.0,
        )
        page = Commit(
            run=run.id,
            domain="b.test",
            epoch=claim.epoch,
            request=row.id,
            at=NOW,
            fetches=(fetch,),
            pace=DomainRow(connections=2, peer_closes=3, generation=2),
        )
        assert [ack.applied for ack in await store.commit([page])] == [True]
        counted = await store.count(run.id)
        assert (counted["replays"], counted["connect_failures"], counted["done"]) == (1, 2, 2)
        await store.aclose()

    asyncio.run(main())
    (pool,) = ask(old, "SELECT * FROM v_pools WHERE run = 'books-2'")
    assert (pool["connections"], pool["clients"], pool["peer_closes"]) == (4, 2, 3)
    assert (pool["mean_dns_s"], pool["mean_connect_s"], pool["mean_tls_s"]) == (0.125, 0.5, 0.0625)


def test_an_old_file_is_read_as_it_is(old: Path) -> None:
    before = old.read_bytes()
    with Reader(old) as reader:
        assert reader.count(1)["requests"] == 4
        assert "replays" not in reader.count(1)
        assert summarise(reader, "books-1").reuse == 0.75
    assert ask(old, "SELECT reuse FROM v_pools WHERE run = 'books-1'") == [{"reuse": 0.75}]
    assert old.read_bytes() == before


def test_a_migration_that_cannot_be_written_leaves_the_file_as_it_was(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute(
            "CREATE TRIGGER no BEFORE UPDATE ON run_domain BEGIN"
            " SELECT raise(ABORT, 'not now'); END"
        )
    before = layout(old)

    async def main() -> None:
        with pytest.raises(StorageError, match="not now"):
            await SqliteStore.open(old)

    asyncio.run(main())
    assert layout(old) == before
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        connection.execute("DROP TRIGGER no")
    migrate(old)
    assert ask(old, "SELECT max(connect_failures) AS n FROM v_pools") == [{"n": 2}]


def test_a_query_for_what_an_older_file_lacks_says_how_it_gets_it(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = ["sql", "select peer_closes from v_pools", "--db", str(old)]
    assert main(query) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: SQL: no such column: peer_closes"
    assert "written by an older version: the next `crawler run` upgrades it" in hint
    migrate(old)
    assert main(query) == 0
