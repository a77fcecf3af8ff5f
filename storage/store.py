"""The contract that every store keeps, written for N workers.

Invariants (the contract tests hold every store to them):

1. A Commit is applied whole or not at all: settled mark, items, links, fetches, counters.
2. A page is applied only while its request is queued and its domain's epoch is that of
   the commit; otherwise it is stale and nothing of it is kept.
3. A request row exists once per (run, domain, fingerprint). Of several offers the first
   wins; an accepted offer over a dropped row requeues that row.
4. Commits handed over by one task are applied in that order; an Ack comes only after the
   transaction has ended.
5. `is_finished(run)` asks the rows, never a counter.
6. `knows()` may forget, and never claims to know what is not stored as an accepted row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from storage.records import (
        Ack,
        Claim,
        Commit,
        QueuedRequest,
        Queues,
        RunRow,
        RunSpec,
        RunState,
        Scalar,
        StoreStats,
        Table,
        Woken,
    )

__all__ = ["LEASE_S", "StorageError", "Store"]

LEASE_S = 60.0
"""Seconds a claim holds without `renew`."""


class StorageError(Exception):
    """The store cannot do what was asked: full disk, foreign file, locked, corrupt.

    `hint` is one command or one line that helps; None: there is none.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")


class Store(Protocol):
    """A durable frontier with its items and statistics."""

    @property
    def path(self) -> str | None:
        """The database's file; None: it has none."""
        ...

    async def begin(self, spec: RunSpec) -> RunRow:
        """Insert a run in state RUNNING, named `<spider>-<n>` with the next free n."""
        ...

    async def resume(self, run: int, *, settings: str, code_hash: str, pid: int) -> RunRow:
        """Put a run back to RUNNING with what may have changed since."""
        ...

    async def end(
        self, run: int, state: RunState, *, at: float, ended_by: str, stats: str = "{}"
    ) -> None:
        """Close a run's session; `stats` is JSON kept on the run."""
        ...

    async def runs(self) -> list[RunRow]:
        """All runs, oldest first."""
        ...

    async def note(self, run: int, key: str, value: str | None) -> None:
        """Keep a value about a run under a key; it replaces the one before, None removes it.

        It outlives the process, and is there only once all that was committed before is.
        """
        ...

    async def notes(self, run: int) -> dict[str, str]:
        """What is kept about a run, by key."""
        ...

    async def declare(self, table: Table) -> None:
        """Create an item table with its `NAME_latest` view, or add its new columns.

        Raises StorageError when a column's type or the key has changed.
        """
        ...

    async def claim(
        self, worker: str, runs: Collection[int], limit: int, now: float
    ) -> list[Claim]:
        """Up to `limit` domains that have queued rows in `runs` and that `worker` does
        not hold; each claim raises the domain's epoch."""
        ...

    async def renew(self, worker: str, now: float) -> None:
        """Extend every claim of `worker` to `now + LEASE_S`."""
        ...

    async def release(self, worker: str, domains: Iterable[str]) -> None:
        """Give up claims; domains not held are ignored."""
        ...

    async def window(self, run: int, domain: str, limit: int) -> list[QueuedRequest]:
        """The first `limit` queued rows that do not wait, by (priority desc, id).

        May contain rows that the caller already has: it sees committed rows only.
        """
        ...

    async def wake(self, runs: Collection[int], now: float) -> Woken:
        """Make rows whose `not_before` has come ready, in one statement."""
        ...

    async def commit(self, batch: Sequence[Commit]) -> list[Ack]:
        """Apply pages, in order; one Ack each. Groups with other callers' pages."""
        ...

    async def fail_domain(
        self, run: int, domain: str, epoch: int, *, reason: str, message: str, at: float
    ) -> int:
        """Fail every queued row of a domain in one statement; the number failed.

        A stale epoch fails nothing. Writes one ErrorRow-like record with `reason`.
        """
        ...

    async def is_finished(self, run: int) -> bool:
        """True when the run is seeded and no request of it is queued or sent."""
        ...

    async def count(self, run: int) -> dict[str, int]:
        """Counters of a run: queued, done, failed, dropped, fetches, items, ..."""
        ...

    async def queues(self, run: int, limit: int) -> Queues:
        """What a run has queued, and of its domains the `limit` longest queues.

        By the counters that commits keep: it scans no rows of requests.
        """
        ...

    async def origins(self, run: int) -> list[str]:
        """Domains of depth-0 requests: the hosts that start URLs and their redirects named."""
        ...

    async def items(self, run: int, table: str) -> list[dict[str, Scalar]]:
        """The items a run has in `table`, without private columns, oldest first."""
        ...

    async def tables(self) -> list[str]:
        """Names of the item tables."""
        ...

    def knows(self, run: int, fingerprint: bytes) -> bool:
        """True only when an accepted row with this fingerprint is stored in `run`."""
        ...

    def hurry(self) -> None:
        """Nothing else is coming for now: commit what has been handed over at once."""
        ...

    def stats(self) -> StoreStats:
        """Counters since the store was opened."""
        ...

    async def aclose(self) -> None:
        """Commit what was handed over, close. Idempotent."""
        ...
