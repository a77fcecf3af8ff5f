"""What the open runs, and whoever steers them, ask of a domain's pace. Pure.

Owns: the settings of each run for a domain with what was changed while it runs, the pace
that keeps to all of them. Does not own: learned paces (`pace`), the words of a command
(`steering`), when it is carried out (`helm`).

Invariants: of several runs' wishes the strictest holds; of two changes to the same thing
the later one holds; a change lasts as long as the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.pace import Pace
from crawler.settings import DomainSettings, matches
from crawler.urls import is_private

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from crawler.run import Crawl
    from crawler.settings import Settings

__all__ = ["MOST_CHANGES", "Change", "Wishes"]

MOST_CHANGES = 200
"""Changes that hold at once: each new domain is held against all of them."""


class Change(NamedTuple):
    """What is changed, for whom."""

    field: str
    """delay, concurrency or paused."""
    pattern: str | None
    """Of domains; None: all of them."""
    run: str | None
    """None: all runs."""

    def means(self, domain: str) -> bool:
        """Whether it is about a domain."""
        return self.pattern is None or matches(self.pattern, domain)

    def covers(self, other: Change) -> bool:
        """Whether nothing is left of the other one where this one holds."""
        is_kind = self.field == other.field and self.run in (None, other.run)
        return is_kind and (self.pattern is None or self.means(other.pattern or ""))


class Wishes:
    """The wishes of one session; `crawls` are its open runs, `named` the domains that the
    user named: on this machine's own network those need no pause."""

    def __init__(
        self, settings: Settings, crawls: Mapping[int, Crawl], named: Collection[str]
    ) -> None:
        self._settings = settings
        self._crawls = crawls
        self._named = named
        self._changes: dict[Change, Any] = {}
        self._merged: dict[tuple[object, ...], DomainSettings] = {}

    def __repr__(self) -> str:
        return f"<Wishes of {len(self._crawls)} runs, {len(self._changes)} changes>"

    def of(self, domain: str) -> list[DomainSettings]:
        """What each open run asks of a domain; without one, what the session has."""
        asked = [(crawl.settings, crawl.row.name) for crawl in self._crawls.values()]
        changes = {change: value for change, value in self._changes.items() if change.means(domain)}
        return [
            self._changed(settings.for_domain(domain), changes, run)
            for settings, run in asked or [(self._settings, "")]
        ]

    def pace_for(self, domain: str) -> Pace:
        """A pace that keeps to all of them."""
        is_near = domain in self._named and is_private(domain)
        pace = Pace.strictest(self.of(domain), is_near=is_near)
        pace.is_paused = self.is_paused(domain)
        return pace

    def is_paused(self, domain: str) -> bool:
        """Whether somebody wants nothing of this domain to start."""
        said = (
            value
            for change, value in reversed(self._changes.items())
            if change.field == "paused" and change.means(domain)
        )
        return next(said, False)

    @property
    def has_paused(self) -> bool:
        """Some domain is paused, or would be if it came."""
        return any(value for change, value in self._changes.items() if change.field == "paused")

    def change(self, change: Change, value: Any) -> bool:
        """Let a change hold from now on; False: too many hold already.

        It ends the earlier ones that it covers, so the later one stands last.
        """
        kept = {old: held for old, held in self._changes.items() if not change.covers(old)}
        if len(kept) >= MOST_CHANGES:
            return False
        if value is not False or any(old.field == "paused" for old in kept):
            kept[change] = value  # to go on means something only where others are paused
        self._changes = kept
        return True

    def forget(self) -> None:
        """A run has begun or ended: what was merged for another one is of no use."""
        self._merged.clear()

    def stats(self) -> dict[str, int]:
        """How many changes hold, by what they change."""
        counts: dict[str, int] = {}
        for change in self._changes:
            counts[change.field] = counts.get(change.field, 0) + 1
        return counts

    def _changed(
        self, wish: DomainSettings, changes: Mapping[Change, Any], run: str
    ) -> DomainSettings:
        over = {
            change.field: value
            for change, value in changes.items()
            if change.field != "paused" and change.run in (None, run)
        }
        if not over:
            return wish
        key = (id(wish), *sorted(over.items()))
        if key not in self._merged:
            self._merged[key] = DomainSettings(**wish.given() | over)
        return self._merged[key]
