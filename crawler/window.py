"""The part of one (run, domain) queue that is held in memory. Pure.

The queue itself is rows in the store; the window is its beginning, in order of priority
and age, so that memory does not grow with the queue.

Invariants:
- a row is handed out at most once until it is settled, whatever a read of the store saw;
- everything in the window sorts before everything that is only in the store, except rows
  that arrived while a read was under way (the next read finds them);
- `complete` means: the store has no ready row that is not in the window or handed out.
They rely on the store's answers to writes arriving in the order in which it acted.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage import QueuedRequest

__all__ = ["Ready", "Window"]

SIZE = 200


class Ready(NamedTuple):
    """A row that may be sent, in its order: higher priority first, then older first."""

    rank: int
    id: int
    at: float
    """When it came into the window (monotonic): its waiting time counts from here."""
    row: QueuedRequest


class Window:
    """The first rows of a (run, domain) queue."""

    __slots__ = (
        "_is_void",
        "_missed",
        "_out",
        "_ready",
        "_settled",
        "complete",
        "domain",
        "reading",
        "run",
        "wanted",
    )

    def __init__(self, run: int, domain: str) -> None:
        self.run = run
        self.domain = domain
        self.complete = False
        self.reading = False
        self.wanted = False
        """Someone has been asked to read for it."""
        self._ready: list[Ready] = []
        self._out: set[int] = set()
        self._settled: set[int] = set()
        self._missed = False
        self._is_void = False

    def __repr__(self) -> str:
        more = "complete" if self.complete else "more in store"
        counts = f"{len(self._ready)} ready {len(self._out)} out"
        return f"<Window {self.run}/{self.domain} {counts}, {more}>"

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def is_drained(self) -> bool:
        """Nothing ready here or in the store, nothing handed out."""
        return self.complete and not self._ready and not self._out

    @property
    def wants_read(self) -> bool:
        """The store has more and the window runs low."""
        low = not self.complete and len(self._ready) <= SIZE // 4
        return low and not self.reading and not self.wanted

    def first(self) -> Ready:
        """The row to send next; the window must not be empty."""
        return self._ready[0]

    def pop(self) -> Ready:
        """Hand out the first row."""
        ready = self._ready.pop(0)
        self._out.add(ready.id)
        return ready

    def offer(self, row: QueuedRequest, now: float) -> None:
        """A row that a commit has just inserted; a read may have seen it already."""
        if self.reading or not (self.complete or self._ready):
            self._leave_in_store()
            return
        at = bisect_left(self._ready, (-row.priority, row.id))
        if at == len(self._ready) and not self.complete:
            return
        is_ready = at < len(self._ready) and self._ready[at].id == row.id
        if not is_ready and row.id not in self._out:
            self._ready.insert(at, Ready(-row.priority, row.id, now, row))
            self._trim()

    def settle(self, row_id: int) -> None:
        """A row that was handed out has been committed: done, dropped or put back."""
        self._out.discard(row_id)
        if self.reading:
            self._settled.add(row_id)

    def clear(self) -> None:
        """The store fails everything that is queued here; a read under way is void."""
        self._ready.clear()
        self._is_void = self.reading

    def more_in_store(self) -> None:
        """Rows became ready in the store without passing through here."""
        self._leave_in_store()

    def begin_read(self) -> int:
        """Start a read; the number of rows to ask the store for."""
        self.reading = True
        self.wanted = False
        self._missed = False
        self._settled.clear()
        return SIZE + len(self._out) + len(self._ready)

    def end_read(self, rows: Sequence[QueuedRequest], asked: int, now: float) -> None:
        """Take over what a read of `asked` rows saw."""
        self.reading = False
        if self._is_void:
            rows, asked, self._is_void = (), 0, False
        known = self._out | self._settled
        known.update(ready.id for ready in self._ready)
        self._settled.clear()
        fresh = [Ready(-row.priority, row.id, now, row) for row in rows if row.id not in known]
        self._ready = sorted(self._ready + fresh)
        self.complete = len(rows) < asked and not self._missed
        self._missed = False
        self._trim()

    def _trim(self) -> None:
        if len(self._ready) > SIZE:
            del self._ready[SIZE:]
            self.complete = False

    def _leave_in_store(self) -> None:
        self.complete = False
        self._missed = self._missed or self.reading
