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

MOST_CHANGES = 1_000
"""Changes that hold at once."""


class Change(NamedTuple):
    """What is changed, for whom."""

    field: str
    """delay, concurrency or paused."""
    pattern: str | None
    """Of domains; None: all of them."""
    run: str | None
    """None: all runs."""

    def means(self, run: str, domain: str) -> bool:
        """Whether it holds for a domain of a run."""
        if self.run not in (None, run):
            return False
        return self.pattern is None or matches(self.pattern, domain)


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
        wishes = [
            self._changed(crawl.settings.for_domain(domain), crawl.row.name, domain)
            for crawl in self._crawls.values()
        ]
        return wishes or [self._changed(self._settings.for_domain(domain), "", domain)]

    def pace_for(self, domain: str) -> Pace:
        """A pace that keeps to all of them."""
        is_near = domain in self._named and is_private(domain)
        pace = Pace.strictest(self.of(domain), is_near=is_near)
        pace.is_paused = self.is_paused(domain)
        return pace

    def is_paused(self, domain: str) -> bool:
        """Whether somebody wants nothing of this domain to start."""
        said = [
            value
            for change, value in self._changes.items()
            if change.field == "paused" and change.means("", domain)
        ]
        return bool(said and said[-1])

    @property
    def has_paused(self) -> bool:
        """Some domain is paused, or would be if it came."""
        return any(value for change, value in self._changes.items() if change.field == "paused")

    def change(self, change: Change, value: Any) -> bool:
        """Let a change hold from now on; False: too many hold already.

        One for every run and domain ends all earlier ones of its kind.
        """
        if change.pattern is None and change.run is None:
            self.end(change.field)
        self._changes.pop(change, None)  # the later one goes last
        if len(self._changes) >= MOST_CHANGES:
            return False
        self._changes[change] = value
        self._merged.clear()
        return True

    def end(self, field: str) -> None:
        """Undo every change of that kind."""
        for change in [known for known in self._changes if known.field == field]:
            del self._changes[change]

    def forget(self) -> None:
        """A run has begun or ended: what was merged for another one is of no use."""
        self._merged.clear()

    def stats(self) -> dict[str, int]:
        """How many changes hold, by what they change."""
        counts: dict[str, int] = {}
        for change in self._changes:
            counts[change.field] = counts.get(change.field, 0) + 1
        return counts

    def _changed(self, wish: DomainSettings, run: str, domain: str) -> DomainSettings:
        if not self._changes:
            return wish
        over = {
            change.field: value
            for change, value in self._changes.items()
            if change.field != "paused" and change.means(run, domain)
        }
        if not over:
            return wish
        key = (id(wish), *sorted(over.items()))
        if key not in self._merged:
            self._merged[key] = DomainSettings(**wish.given() | over)
        return self._merged[key]
