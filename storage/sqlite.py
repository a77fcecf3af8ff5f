"""The store in one SQLite file: one writer thread, one reader thread, one process.

Owns: opening and closing, and which thread does what.
Does not own: statements (`group`, `jobs`, `tables`), grouping (`writer`).

Invariants: one connection writes and checkpoints, in its own thread, and no other process
writes the file meanwhile; reads see committed rows only; every claim is granted, but its
epoch is real. SQLite 3.40 does.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from storage import jobs, schema
from storage.known import Known
from storage.lock import FileLock
from storage.reading import connect_read_only, count_run, item_rows, queues_of
from storage.records import QueuedRequest, StoreStats
from storage.store import StorageError
from storage.tables import Refused
from storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    from storage.records import (
        Ack,
        Claim,
        Commit,
        Queues,
        RunRow,
        RunSpec,
        RunState,
        Scalar,
        Table,
        Woken,
    )

__all__ = ["SqliteStore", "open_writing"]

T = TypeVar("T")

_WINDOW = (
    "SELECT json_group_array(json_object('id', id, 'run', run, 'domain', ?2, 'url', url,"
    " 'method', coalesce(method, 'GET'), 'priority', priority, 'depth', depth,"
    " 'attempts', attempts, 'payload', payload)) FROM (SELECT * FROM req"
    " WHERE run = ?1 AND domain = (SELECT id FROM domain WHERE name = ?2) AND state = 0"
    " AND not_before IS NULL ORDER BY priority DESC, id LIMIT ?3)"
)
_FINISHED = (
    "SELECT EXISTS (SELECT 1 FROM run WHERE id = ?1 AND seeded_at IS NOT NULL)"
    " AND NOT EXISTS (SELECT 1 FROM req WHERE run = ?1 AND state = 0 AND not_before IS NULL)"
    " AND NOT EXISTS (SELECT 1 FROM req WHERE run = ?1 AND state = 0 AND not_before IS NOT NULL)"
    " AND NOT EXISTS (SELECT 1 FROM req WHERE run = ?1 AND state = 1)"
)
_ORIGINS = (
    "SELECT json_group_array(name) FROM (SELECT name FROM domain WHERE id IN"
    " (SELECT domain FROM req WHERE run = ? AND depth = 0) ORDER BY id)"
)


class SqliteStore:
    """A Store in a file of mode 0600; made by `open`, for the event loop that opens it."""

    def __init__(
        self, path: str, lock: FileLock, writing: sqlite3.Connection, reading: sqlite3.Connection
    ) -> None:
        self.path = path
        self._lock = lock
        self._writing = writing
        self._reading = reading
        self._known = Known()
        self._writer = Writer(writing, path, self._known)
        self._reader = ThreadPoolExecutor(1, "store-reader")
        self._is_open = True

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path} {self._writer!r}>"

    @classmethod
    async def open(cls, path: str | Path) -> SqliteStore:
        """Open or create a database, and take over what a dead process left.

        Raises StorageError when another process has it, or when it is not ours.
        """
        lock, writing, reading = await asyncio.to_thread(_open, str(path))
        return cls(str(path), lock, writing, reading)

    async def begin(self, spec: RunSpec) -> RunRow:
        """Insert a run."""
        return await self._job(jobs.begin, spec)

    async def resume(self, run: int, *, settings: str, code_hash: str, pid: int) -> RunRow:
        """Go on with a run; requests sent and never settled fail as `unknown`."""
        return await self._job(jobs.resume, run, settings, code_hash, pid)

    async def end(
        self, run: int, state: RunState, *, at: float, ended_by: str, stats: str = "{}"
    ) -> None:
        """Close a run's session."""
        await self._job(jobs.end, run, state, at, ended_by, stats)

    async def runs(self) -> list[RunRow]:
        """All runs, oldest first."""
        return await self._read(jobs.read_runs)

    async def note(self, run: int, key: str, value: str | None) -> None:
        """Keep a value about a run."""
        await self._job(jobs.note, run, key, value)

    async def notes(self, run: int) -> dict[str, str]:
        """What is kept about a run."""
        return await self._read(partial(jobs.read_notes, run=run))

    async def declare(self, table: Table) -> None:
        """Make an item table, or add its new columns."""

        def declare() -> None:
            try:
                self._writer.pages.tables.declare(table)
            except Refused as error:
                hint = "give it another table name, or start a new --db"
                raise StorageError(str(error), hint=hint) from error

        await self._writer.job(declare)

    async def claim(
        self, worker: str, runs: Collection[int], limit: int, now: float
    ) -> list[Claim]:
        """Every claim is granted; a lease of another worker is taken over."""
        return await self._job(jobs.claim, worker, runs, limit, now)

    async def renew(self, worker: str, now: float) -> None:
        """Extend the leases of a worker."""
        await self._job(jobs.renew, worker, now)

    async def release(self, worker: str, domains: Iterable[str]) -> None:
        """Give up leases."""
        await self._job(jobs.release, worker, domains)

    async def window(self, run: int, domain: str, limit: int) -> list[QueuedRequest]:
        """The first ready rows of a domain."""

        def read(connection: sqlite3.Connection) -> list[QueuedRequest]:
            (found,) = connection.execute(_WINDOW, (run, domain, limit)).fetchone()
            return msgspec.json.decode(found, type=list[QueuedRequest])

        return await self._read(read)

    async def wake(self, runs: Collection[int], now: float) -> Woken:
        """Make due rows ready."""
        return await self._job(jobs.wake, runs, now)

    async def commit(self, batch: Sequence[Commit]) -> list[Ack]:
        """Hand pages to the writer, and wait for their transactions."""
        return await self._writer.submit(batch) if batch else []

    async def fail_domain(
        self, run: int, domain: str, epoch: int, *, reason: str, message: str, at: float
    ) -> int:
        """Fail what a domain has queued."""
        return await self._job(jobs.fail_domain, run, domain, epoch, reason, message, at)

    async def is_finished(self, run: int) -> bool:
        """Seeded, and nothing queued or sent, by the rows' own word."""
        return await self._read(lambda c: bool(c.execute(_FINISHED, (run,)).fetchone()[0]))

    async def count(self, run: int) -> dict[str, int]:
        """Counters of a run."""
        return await self._read(partial(count_run, run=run))

    async def queues(self, run: int, limit: int) -> Queues:
        """What a run has queued, the longest queues first."""
        return await self._read(partial(queues_of, run=run, limit=limit))

    async def origins(self, run: int) -> list[str]:
        """Domains of depth-0 requests, in order of discovery."""

        def read(connection: sqlite3.Connection) -> list[str]:
            (found,) = connection.execute(_ORIGINS, (run,)).fetchone()
            return msgspec.json.decode(found, type=list[str])

        return await self._read(read)

    async def items(self, run: int, table: str) -> list[dict[str, Scalar]]:
        """The items of a run."""

        def read(connection: sqlite3.Connection) -> list[dict[str, Scalar]]:
            row = connection.execute("SELECT name FROM run WHERE id = ?", (run,)).fetchone()
            columns, rows = item_rows(connection, table, run=row[0] if row else "")
            return [dict(zip(columns, values, strict=True)) for values in rows]

        return await self._read(read)

    async def tables(self) -> list[str]:
        """Names of the item tables, oldest first."""
        query = "SELECT name FROM item_table ORDER BY rowid"
        return await self._read(lambda c: [name for (name,) in c.execute(query)])

    def knows(self, run: int, fingerprint: bytes) -> bool:
        """True only for a stored, accepted row; False may mean forgotten."""
        return self._known.has(run, fingerprint)

    def hurry(self) -> None:
        """Commit at once."""
        self._writer.hurry()

    def stats(self) -> StoreStats:
        """Counters since the store was opened."""
        size = _size(self.path) + _size(f"{self.path}-wal")
        return msgspec.structs.replace(self._writer.stats(), known=len(self._known), bytes=size)

    async def aclose(self) -> None:
        """Commit what was handed over, fold the log into the file, close."""
        if not self._is_open:
            return
        self._is_open = False
        await asyncio.to_thread(self._reader.shutdown)
        self._reading.close()
        await self._writer.aclose()
        self._lock.close()

    async def _job(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._writer.job(partial(work, self._writing, *arguments))

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if not self._is_open:
            raise StorageError("the store is closed")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._reader, work, self._reading)
        except sqlite3.Error as error:
            raise StorageError(
                f"{self.path} could not be read: {error}", hint="`crawler doctor` looks at the disk"
            ) from error


def _open(path: str) -> tuple[FileLock, sqlite3.Connection, sqlite3.Connection]:
    """Lock, write connection, read connection; all of them or none."""
    with ExitStack() as undo:
        lock = FileLock.open(path)
        undo.callback(lock.close)
        writing = open_writing(path)
        undo.callback(writing.close)
        reading = connect_read_only(path)
        undo.pop_all()
    return lock, writing, reading


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def open_writing(path: str) -> sqlite3.Connection:
    """The one connection that writes, its file ours, up to date and recovered."""
    with suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=512
        )
    except sqlite3.Error as error:
        raise StorageError(
            f"{path} cannot be opened: {error}", hint="choose another file with --db"
        ) from error
    try:
        schema.check(connection, path)
        for pragma in (
            *("journal_mode = WAL", "synchronous = NORMAL", "wal_autocheckpoint = 0"),
            *("journal_size_limit = 1048576", "cache_size = -65536", "temp_store = MEMORY"),
        ):
            connection.execute(f"PRAGMA {pragma}").fetchone()
        schema.apply(connection, path)
        jobs.recover(connection)
    except sqlite3.Error as error:
        connection.close()
        raise StorageError(
            f"{path} cannot be opened: {error}", hint="choose another file with --db"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection
