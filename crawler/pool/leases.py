"""Who may use a client, and which one goes when a new one needs its place. Pure.

Owns: reference counts, generations, the order of last use, the bound, the keys evicted
lately. Does not own: clients, sockets.

Invariants: at most `limit` generations are alive, draining ones included; one with leases
is never chosen to go; the one that goes has been without a lease for longest, those that
nobody needs before those that somebody does; a key has at most one open generation, and a
retired one is given no new lease; each lease is given back exactly once; `may_lease` and
`lease` agree; everything but `idle` costs O(1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Grant", "LeaseStats", "LeaseTable"]

K = TypeVar("K", bound=Hashable)


class Grant(NamedTuple, Generic[K]):
    """Answer of `lease`."""

    is_new: bool
    """The key was not open: its client must be made."""
    evicted: K | None
    """The key whose open, idle generation had to go; None: none."""
    generation: int
    """To be given back with the key; no two generations of a table are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseStats:
    """The table at one instant, and its counters."""

    open: int
    """Open generations, idle ones included."""
    idle: int
    draining: int
    """Retired generations whose last lease is still out."""
    leases: int
    evictions: int
    """Keys that had to go for another one."""
    misses_after_evict: int
    """Openings of keys among the last `limit` evicted: the limit is too small."""


class _Entry:
    """One generation."""

    __slots__ = ("generation", "leases")

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.leases = 0


class LeaseTable(Generic[K]):
    """Keys with their generations and leases; `limit` at least 1.

    A generation is open from its first lease, idle while it has none. It ends by eviction,
    by `drop`, or by `retire`: at once when idle, else with its last lease.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a cache of {limit} clients serves nobody")
        self.limit = limit
        self._open: dict[K, _Entry] = {}
        self._draining: dict[int, tuple[K, _Entry]] = {}
        self._unneeded: OrderedDict[K, None] = OrderedDict()
        self._idle: OrderedDict[K, None] = OrderedDict()
        self._ghosts: OrderedDict[K, None] = OrderedDict()
        self._total = 0
        self._generation = 0
        self._evictions = 0
        self._misses_after_evict = 0

    def __repr__(self) -> str:
        draining = f" ({self.draining} draining)" if self._draining else ""
        return f"<LeaseTable {len(self)}/{self.limit} open{draining}, {self._total} leases>"

    def __len__(self) -> int:
        """Generations alive, draining ones included."""
        return len(self._open) + len(self._draining)

    def __contains__(self, key: object) -> bool:
        """Whether the key has an open generation."""
        return key in self._open

    @property
    def total(self) -> int:
        """Leases out now, those of draining generations included."""
        return self._total

    @property
    def draining(self) -> int:
        """Retired generations whose last lease is still out."""
        return len(self._draining)

    def is_open(self, key: K, generation: int) -> bool:
        """Whether that generation is the key's open one: neither retired nor gone."""
        entry = self._open.get(key)
        return entry is not None and entry.generation == generation

    def leases(self, key: K) -> int:
        """Leases of the key's open generation; 0: idle or not open."""
        entry = self._open.get(key)
        return 0 if entry is None else entry.leases

    def idle(self) -> tuple[K, ...]:
        """Open keys without a lease, in the order in which they would be evicted."""
        return (*self._unneeded, *self._idle)

    def may_lease(self, key: K) -> bool:
        """Whether `lease(key)` would be granted now."""
        return key in self._open or len(self) < self.limit or self._has_idle()

    def lease(self, key: K) -> Grant[K]:
        """Take a lease. Raises RuntimeError when every place is taken and in use."""
        entry = self._open.get(key)
        is_new = entry is None
        evicted = None
        if entry is None:
            evicted = self._make_room()
            entry = self._open_new(key)
        elif entry.leases == 0:
            self._forget_idle(key)
        entry.leases += 1
        self._total += 1
        return Grant(is_new, evicted, entry.generation)

    def release(self, key: K, generation: int | None = None, *, is_needed: bool = True) -> bool:
        """Give a lease of a generation back; True: it was that generation's last.

        `generation` None: the open one. An open generation is idle then, and goes first
        when it is not needed: nothing is queued for it, or nothing before its connections
        expire. A retired one is gone: `is_open` tells. Raises RuntimeError when the
        generation has no lease.
        """
        entry = self._open.get(key)
        if entry is None or (generation is not None and entry.generation != generation):
            return self._release_draining(key, generation)
        if entry.leases == 0:
            raise RuntimeError(f"{key!r} has no lease to give back")
        entry.leases -= 1
        self._total -= 1
        if entry.leases:
            return False
        (self._idle if is_needed else self._unneeded)[key] = None
        return True

    def retire(self, key: K) -> bool:
        """Give no more leases of the open generation; the next lease opens another.

        True: it was idle and is gone; False: it is gone after its last release, and keeps
        its place until then. Raises RuntimeError when the key is not open.
        """
        if key not in self._open:
            raise RuntimeError(f"{key!r} is not open")
        entry = self._open.pop(key)
        if entry.leases == 0:
            self._forget_idle(key)
            return True
        self._draining[entry.generation] = (key, entry)
        return False

    def drop(self, key: K) -> None:
        """Close an idle key. Raises RuntimeError when it is in use or not open."""
        entry = self._open.get(key)
        if entry is None or entry.leases:
            raise RuntimeError(f"{key!r} is in use or not open")
        self.retire(key)

    def stats(self) -> LeaseStats:
        """The table at this instant."""
        return LeaseStats(
            open=len(self._open),
            idle=len(self._unneeded) + len(self._idle),
            draining=len(self._draining),
            leases=self._total,
            evictions=self._evictions,
            misses_after_evict=self._misses_after_evict,
        )

    def _has_idle(self) -> bool:
        return bool(self._unneeded or self._idle)

    def _forget_idle(self, key: K) -> None:
        if key in self._idle:
            del self._idle[key]
        else:
            del self._unneeded[key]

    def _open_new(self, key: K) -> _Entry:
        if key in self._ghosts:
            del self._ghosts[key]
            self._misses_after_evict += 1
        self._generation += 1
        entry = self._open[key] = _Entry(self._generation)
        return entry

    def _release_draining(self, key: K, generation: int | None) -> bool:
        found = None if generation is None else self._draining.get(generation)
        if generation is None or found is None or found[0] != key:
            raise RuntimeError(f"{key!r} has no lease to give back")
        entry = found[1]
        entry.leases -= 1
        self._total -= 1
        if entry.leases == 0:
            del self._draining[generation]
        return entry.leases == 0

    def _make_room(self) -> K | None:
        if len(self) < self.limit:
            return None
        if not self._has_idle():
            raise RuntimeError(f"all {self.limit} clients are in use; ask may_lease first")
        victim, _ = (self._unneeded or self._idle).popitem(last=False)
        del self._open[victim]
        self._evictions += 1
        self._ghosts[victim] = None
        if len(self._ghosts) > self.limit:
            self._ghosts.popitem(last=False)
        return victim
