"""Instants at which things expire, of many things at once. Pure.

Owns: when each key expires, and which are due. Does not own: the keys, the clock, the
timer that asks.

Invariants: `due` gives each key once, in the order of expiry, and never one whose instant
is still to come; `next_at` may be early, never late; the heap holds at most 2 entries a
live key and 32 more, however often keys are set and dropped.

A connection goes idle and back to work thousands of times before it ever expires. So a
heap entry that is too early is left where it is, and moved when it comes up.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

__all__ = ["Expiries"]

K = TypeVar("K", bound=Hashable)

SLACK = 32
"""Heap entries without a live key that are never worth a clean-up."""


class Expiries(Generic[K]):
    """Keys with the instant at which each expires; any monotonic clock's, in seconds."""

    def __init__(self) -> None:
        self._live: dict[K, float] = {}
        self._entry: dict[K, tuple[float, int, K]] = {}
        """The one entry of the heap that counts for a key, dropped keys included."""
        self._heap: list[tuple[float, int, K]] = []
        self._serial = 0

    def __repr__(self) -> str:
        return f"<Expiries {len(self._live)} keys, {len(self._heap)} in the heap>"

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, key: object) -> bool:
        return key in self._live

    @property
    def heap_size(self) -> int:
        """Entries of the heap, those of dropped keys included."""
        return len(self._heap)

    def set(self, key: K, at: float) -> None:
        """Let the key expire at that instant, whatever was set before.

        Two dictionary accesses when the instant lies behind an earlier one of the key's,
        O(log n) when it does not.
        """
        self._live[key] = at
        entry = self._entry.get(key)
        if entry is None or at < entry[0]:
            self._push(key, at)

    def drop(self, key: K) -> None:
        """Let the key never expire; nothing happens when it is not here. O(1) amortised."""
        if self._live.pop(key, None) is not None:
            self._tidy()

    def due(self, now: float) -> list[K]:
        """Remove and return what expires at `now` or before, the earliest first."""
        expired: list[K] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            entry = heappop(heap)
            key = entry[2]
            if self._entry.get(key) is not entry:
                continue
            del self._entry[key]
            at = self._live.get(key)
            if at is None:
                continue
            if at > entry[0]:
                self._push(key, at)
                continue
            del self._live[key]
            expired.append(key)
        self._tidy()
        return expired

    def next_at(self) -> float | None:
        """When to call `due` next, perhaps for nothing; None: no key is left."""
        heap = self._heap
        while heap and not self._counts(heap[0]):
            entry = heappop(heap)
            if self._entry.get(entry[2]) is entry:
                del self._entry[entry[2]]
        return heap[0][0] if heap else None

    def _push(self, key: K, at: float) -> None:
        self._serial += 1
        entry = (at, self._serial, key)
        self._entry[key] = entry
        heappush(self._heap, entry)
        self._tidy()

    def _counts(self, entry: tuple[float, int, K]) -> bool:
        return entry[2] in self._live and self._entry.get(entry[2]) is entry

    def _tidy(self) -> None:
        """Forget entries that count for nothing once they are the most."""
        if len(self._heap) <= 2 * len(self._live) + SLACK:
            return
        self._heap[:] = [entry for entry in self._heap if self._counts(entry)]
        heapify(self._heap)
        self._entry = {entry[2]: entry for entry in self._heap}
