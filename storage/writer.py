"""The one thread that owns the one connection that writes.

Owns: grouping pages into transactions, replaying a group whose data is refused, jobs
between groups, every checkpoint. Does not own: the statements (`group`, `jobs`).

Invariants: pages and jobs take effect in the order in which they were handed over; a
group has at most 200 pages or 8 MiB, holds no request twice, and is closed 50 ms after
its first page at the latest; a page whose data is refused fails alone; a future is
resolved after its transaction has ended, by one call into the loop per group.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from storage.group import GroupWriter
from storage.records import Ack, StoreStats
from storage.store import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.known import Known
    from storage.records import Commit

__all__ = ["Writer"]

T = TypeVar("T")

GROUP_PAGES = 200
GROUP_BYTES = 8 << 20
LINGER_S = 0.05
"""How long a group waits for more pages."""
WAL_BYTES = 16 << 20
"""Growth of the write-ahead log that calls for a checkpoint."""
IDLE_S = 1.0
"""Quiet time after which what was written is checkpointed."""
REFUSALS = (
    *(sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError),
    *(sqlite3.ProgrammingError, ValueError, TypeError, OverflowError),
)
"""What SQLite and its driver raise for data, not for the state of file or disk."""


class _Batch(Struct, eq=False):
    """Pages handed over together; resolved when all of them have an answer."""

    commits: Sequence[Commit]
    future: asyncio.Future[list[Ack]]
    acks: list[Ack]
    at: float
    """When they were handed over (monotonic)."""


class _Job(Struct, eq=False):
    """Something to do in a transaction of its own."""

    work: Callable[[], Any]
    future: asyncio.Future[Any]


class Writer:
    """Takes commits and jobs from one event loop, and writes them."""

    def __init__(self, connection: sqlite3.Connection, path: str, known: Known) -> None:
        self.pages = GroupWriter(connection, known)
        self._connection = connection
        self._wal = f"{path}-wal"
        self._loop = asyncio.get_running_loop()
        self._entries: deque[_Batch | _Job] = deque()
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._gathered = 0
        self._gathered_bytes = 0
        self._closing = False
        self._group: list[tuple[Commit, _Batch]] = []
        self._requests: set[int] = set()
        self._bytes = 0
        self._begun_at: float | None = None
        """When the oldest page of the group was handed over; None: there is no group."""
        self._checkpointed = 0
        self._is_dirty = False
        self._tallied: dict[str, Any] = {"commits": 0, "groups": 0, "stale": 0, "refused": 0}
        self._durations: deque[float] = deque(maxlen=512)
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Writer {self._tallied['commits']} pages in {self._tallied['groups']} groups>"

    def submit(self, commits: Sequence[Commit]) -> asyncio.Future[list[Ack]]:
        """Hand over pages; the future resolves to one Ack each."""
        future: asyncio.Future[list[Ack]] = self._loop.create_future()
        self._gathered += len(commits)
        self._gathered_bytes += sum(commit.size for commit in commits)
        full = self._gathered >= GROUP_PAGES or self._gathered_bytes >= GROUP_BYTES
        self._push(_Batch(commits, future, [], time.monotonic()), urgent=full)
        return future

    def job(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run `work` in a transaction of its own, after all that was handed over before."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._push(_Job(work, future), urgent=True)
        return future

    def hurry(self) -> None:
        """Write what has been handed over without waiting for more."""
        if self._entries:
            self._urgent.set()

    def stats(self) -> StoreStats:
        """Counters since the start; commit times over the last 512 groups."""
        times = sorted(self._durations) or [0.0]
        return StoreStats(
            **self._tallied,
            commit_p50_s=times[len(times) // 2],
            commit_p99_s=times[len(times) * 99 // 100],
            behind_s=self._behind(),
        )

    def _behind(self) -> float:
        """Seconds since the oldest page came whose transaction has not ended.

        The writer's thread may take it away meanwhile: then the next one is the oldest.
        """
        since = self._begun_at
        with suppress(RuntimeError):  # the writer's thread has taken one at this moment
            waiting = (entry.at for entry in self._entries if isinstance(entry, _Batch))
            since = since or next(waiting, None)
        return 0.0 if since is None else time.monotonic() - since

    async def aclose(self) -> None:
        """Write what was handed over, fold the log into the file, close."""
        self._closing = True
        self._urgent.set()
        self._wake.set()
        await asyncio.to_thread(self._thread.join)

    def _push(self, entry: _Batch | _Job, *, urgent: bool) -> None:
        if self._closing:
            raise StorageError("the store is closed")
        self._entries.append(entry)
        if urgent:
            self._urgent.set()
        if not self._wake.is_set():
            self._wake.set()

    def _work(self) -> None:
        """The thread: sleep until something comes, let a group gather, write it."""
        while self._entries or not self._closing:
            if not self._wake.wait(IDLE_S):
                self._checkpoint_if_dirty()
                continue
            self._urgent.wait(LINGER_S)
            self._wake.clear()
            self._urgent.clear()
            self._gathered = self._gathered_bytes = 0
            for _ in range(len(self._entries)):
                self._take(self._entries.popleft())
            self._flush()
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def _take(self, entry: _Batch | _Job) -> None:
        if isinstance(entry, _Job):
            self._flush()
            self._run(entry)
            return
        for commit in entry.commits:
            full = len(self._group) >= GROUP_PAGES or self._bytes >= GROUP_BYTES
            if full or commit.request in self._requests:
                self._flush()
            self._group.append((commit, entry))
            self._begun_at = self._begun_at or entry.at
            self._bytes += commit.size
            if commit.request is not None:
                self._requests.add(commit.request)

    def _run(self, job: _Job) -> None:
        result, error = None, None
        try:
            result = self._transaction(job.work)
        except Exception as raised:
            error = _as_storage_error(raised)
        self._resolve([(job.future, result, error)])

    def _flush(self) -> None:
        """Write the gathered group and answer its batches."""
        if not self._group:
            return
        group, self._group = self._group, []
        self._requests.clear()
        self._bytes = 0
        started = time.monotonic()
        error: Exception | None = None
        acks: list[Ack] = []
        try:
            acks = self._apply([commit for commit, _ in group])
        except Exception as raised:
            error = _as_storage_error(raised)
        self._durations.append(time.monotonic() - started)
        self._begun_at = None
        self._answer(group, acks, error)
        self._checkpoint_if_large()

    def _apply(self, commits: list[Commit]) -> list[Ack]:
        try:
            acks = self._transaction(lambda: self.pages.apply(commits))
        except REFUSALS:
            acks = self._transaction(lambda: [self._apply_alone(commit) for commit in commits])
        applied = sum(ack.applied for ack in acks)
        refused = sum(ack.error is not None for ack in acks)
        self._tallied["groups"] += 1
        self._tallied["commits"] += applied
        self._tallied["refused"] += refused
        self._tallied["stale"] += len(acks) - applied - refused
        return acks

    def _apply_alone(self, commit: Commit) -> Ack:
        """One page under a savepoint; refused data fails only this page."""
        self._connection.execute("SAVEPOINT page")
        try:
            (ack,) = self.pages.apply([commit])
        except REFUSALS as error:
            self._connection.execute("ROLLBACK TO page")
            self.pages.forget()
            ack = self.pages.refuse(commit, f"{type(error).__name__}: {error}")
        self._connection.execute("RELEASE page")
        return ack

    def _transaction(self, work: Callable[[], T]) -> T:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = work()
            self._connection.execute("COMMIT")
        except BaseException:
            self.pages.forget()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self.pages.confirm()
        self._is_dirty = True
        return result

    def _answer(
        self, group: list[tuple[Commit, _Batch]], acks: list[Ack], error: Exception | None
    ) -> None:
        """Resolve the batches that this group completes (or breaks)."""
        done: dict[int, tuple[asyncio.Future[Any], Any, Exception | None]] = {}
        for n, (_, batch) in enumerate(group):
            if error is None:
                batch.acks.append(acks[n])
            if error is not None or len(batch.acks) == len(batch.commits):
                done[id(batch)] = (batch.future, batch.acks, error)
        if done:
            self._resolve(list(done.values()))

    def _resolve(self, answers: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
        with suppress(RuntimeError):  # the loop is gone, and with it whoever waited
            self._loop.call_soon_threadsafe(_settle, answers)

    def _checkpoint_if_large(self) -> None:
        try:
            size = os.stat(self._wal).st_size
        except OSError:
            return
        if size < self._checkpointed:
            self._checkpointed = 0  # the log began anew
        if size - self._checkpointed >= WAL_BYTES:
            self._checkpoint()
            self._checkpointed = size

    def _checkpoint_if_dirty(self) -> None:
        if self._is_dirty:
            self._checkpoint()

    def _checkpoint(self) -> None:
        with suppress(sqlite3.Error):  # the next one does it, or the next open
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._is_dirty = False


def _settle(answers: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for future, result, error in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _as_storage_error(error: Exception) -> Exception:
    if isinstance(error, StorageError):
        return error
    full = getattr(error, "sqlite_errorname", None) == "SQLITE_FULL"
    wrapped = StorageError(
        f"the database could not be written: {error}",
        hint="free some disk space, then run again" if full else None,
    )
    wrapped.__cause__ = error
    return wrapped
