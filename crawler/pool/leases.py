"""Who may use a client, and which one goes when a new one needs its place. Pure.

Owns: reference counts, the order of last use, the bound. Does not own: clients, sockets.

Invariants: at most `limit` keys are open; a key with leases is never chosen to go; the
one that goes is the one that has been without a lease for longest; each lease is given
back exactly once; `may_lease` and `lease` agree and cost O(1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Grant", "LeaseTable"]

K = TypeVar("K", bound=Hashable)


class Grant(NamedTuple, Generic[K]):
    """Answer of `lease`."""

    is_new: bool
    """The key was not open: its client must be made."""
    evicted: K | None
    """The key that had to go; None: none."""


class LeaseTable(Generic[K]):
    """Open keys with their leases; `limit` at least 1."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a cache of {limit} clients serves nobody")
        self.limit = limit
        self._leases: dict[K, int] = {}
        self._idle: OrderedDict[K, None] = OrderedDict()
        self._total = 0

    def __repr__(self) -> str:
        return f"<LeaseTable {len(self)}/{self.limit} open, {self._total} leases>"

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, key: object) -> bool:
        return key in self._leases

    @property
    def total(self) -> int:
        """Leases out now."""
        return self._total

    def leases(self, key: K) -> int:
        """Leases of one key; 0: idle or not open."""
        return self._leases.get(key, 0)

    def idle(self) -> tuple[K, ...]:
        """Open keys without a lease, the longest unused first."""
        return tuple(self._idle)

    def may_lease(self, key: K) -> bool:
        """Whether `lease(key)` would be granted now."""
        return key in self._leases or len(self._leases) < self.limit or bool(self._idle)

    def lease(self, key: K) -> Grant[K]:
        """Take a lease. Raises RuntimeError when every place is taken and in use."""
        if key in self._leases:
            self._idle.pop(key, None)
            grant: Grant[K] = Grant(False, None)
        else:
            grant = Grant(True, self._make_room())
            self._leases[key] = 0
        self._leases[key] += 1
        self._total += 1
        return grant

    def release(self, key: K) -> bool:
        """Give a lease back; True: it was the key's last.

        Raises RuntimeError when the key has none.
        """
        held = self._leases.get(key, 0)
        if held == 0:
            raise RuntimeError(f"{key!r} has no lease to give back")
        self._leases[key] = held - 1
        self._total -= 1
        if held == 1:
            self._idle[key] = None
        return held == 1

    def drop(self, key: K) -> None:
        """Close an idle key. Raises RuntimeError when it is in use or not open."""
        if key not in self._idle:
            raise RuntimeError(f"{key!r} is in use or not open")
        del self._idle[key]
        del self._leases[key]

    def _make_room(self) -> K | None:
        if len(self._leases) < self.limit:
            return None
        if not self._idle:
            raise RuntimeError(f"all {self.limit} clients are in use; ask may_lease first")
        victim, _ = self._idle.popitem(last=False)
        del self._leases[victim]
        return victim
