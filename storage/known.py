"""Fingerprints that are certainly stored: a bounded memory that may forget, never lie.

Owns: two generations of exact sets. Does not own: when a row counts as stored.

Invariants: at most `CAPACITY` entries; entries are added after the commit that confirmed
them, by the writer's thread, while the event loop only asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CAPACITY", "Known"]

CAPACITY = 250_000
"""Entries in both generations together."""


class Known:
    """The newest fingerprints of accepted rows, per run."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._half = capacity // 2
        self._young: dict[int, set[bytes]] = {}
        self._old: dict[int, set[bytes]] = {}
        self._filled = 0

    def __len__(self) -> int:
        return sum(map(len, self._young.values())) + sum(map(len, self._old.values()))

    def __repr__(self) -> str:
        return f"<Known {len(self)} of {2 * self._half}>"

    def has(self, run: int, fingerprint: bytes) -> bool:
        """True only when it was added and not forgotten."""
        return fingerprint in self._young.get(run, ()) or fingerprint in self._old.get(run, ())

    def update(self, entries: Iterable[tuple[int, bytes]]) -> None:
        """Add (run, fingerprint) entries; the older generation goes when the younger is full."""
        for run, fingerprint in entries:
            seen = self._young.setdefault(run, set())
            if fingerprint in seen:
                continue
            seen.add(fingerprint)
            self._filled += 1
            if self._filled >= self._half:
                self._old, self._young, self._filled = self._young, {}, 0

    def discard(self, run: int, fingerprint: bytes) -> None:
        """Forget one."""
        for generation in (self._young, self._old):
            generation.get(run, set()).discard(fingerprint)
