"""What one transaction adds to the counters, summed before it is written.

Owns: how pages, fetches and problems count, and the two statements that add the sums.
Does not own: when they are written. Every store counts with it, so all count alike.

Invariant: `queued` counts rows that are not settled (sent and waiting ones too).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from storage import bulk
from storage.records import State
from storage.schema import CONNECT_ERRORS, COUNTERS, PEAKS, Tally

if TYPE_CHECKING:
    import sqlite3

    from storage.records import DomainRow, FetchRow

__all__ = ["Ledger", "Sums"]

Sums = dict[str, float]
Place = tuple[int, int]
"""(run, domain); domain 0 stands for the whole run."""

_SETTLED = {State.DONE: "done", State.FAILED: "failed", State.DROPPED: "dropped"}

_STATUS, _TTFB = int(Tally.STATUS), int(Tally.TTFB)
_NO_PEAKS = (0,) * len(PEAKS)
_ADD = (
    f"INSERT INTO run_domain (run, domain, {', '.join(COUNTERS)}, {', '.join(PEAKS)},"
    " state, next_at, delay, concurrency)"
    " SELECT * FROM :rows WHERE column1 IS NOT NULL ON CONFLICT (run, domain) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in COUNTERS)
    + "".join(f", {name} = max({name}, excluded.{name})" for name in PEAKS)
    + ", "
    + ", ".join(
        f"{name} = CASE WHEN excluded.state IS NULL THEN {name} ELSE excluded.{name} END"
        for name in ("next_at", "delay", "concurrency", "state")
    )
)
_TALLY = (
    "INSERT INTO tally SELECT * FROM :rows WHERE column1 IS NOT NULL"
    " ON CONFLICT (run, domain, kind, code) DO UPDATE SET n = n + excluded.n"
)


class Ledger:
    """Sums per (run, domain) and tallies per (run, domain, kind, code)."""

    def __init__(self) -> None:
        self.sums: defaultdict[Place, Sums] = defaultdict(lambda: dict.fromkeys(COUNTERS, 0))
        self.tallies: Counter[tuple[int, int, int, int | str]] = Counter()
        self.paces: dict[Place, DomainRow] = {}
        self.peaks: dict[Place, tuple[int, ...]] = {}

    def __repr__(self) -> str:
        return f"<Ledger {len(self.sums)} places, {len(self.tallies)} tallies>"

    def tally(self, place: Place, kind: Tally, code: int | str, n: int = 1) -> None:
        """Count `n` more of a code."""
        self.tallies[(*place, int(kind), code)] += n

    def queue(self, place: Place, waits: bool, n: int = 1) -> None:
        """`n` rows more are queued; `waits`: they have a `not_before`."""
        sums = self.sums[place]
        sums["queued"] += n
        if waits:
            sums["waiting"] += n

    def refuse(self, place: Place, reason: str) -> None:
        """One request more is dropped."""
        self.sums[place]["dropped"] += 1
        self.tally(place, Tally.DROP, reason)

    def take_back(self, place: Place, reason: str | None) -> None:
        """A dropped request is queued after all: it was refused under `reason`."""
        self.sums[place]["dropped"] -= 1
        self.tally(place, Tally.DROP, reason or "dropped", -1)

    def settle(
        self, place: Place, state: State, reason: str | None, waited: bool, waits: bool, at: float
    ) -> None:
        """A live row leaves for `state`; QUEUED and SENT leave it counted as queued."""
        sums = self.sums[place]
        sums["waiting"] += waits - waited
        if not state.is_settled:
            return
        sums["queued"] -= 1
        if state is State.DROPPED:
            self.refuse(place, reason or "dropped")
        else:
            sums[_SETTLED[state]] += 1
            sums["redirected"] += (reason or "").startswith("redirected")
        if state is State.DONE:
            self.tally((place[0], 0), Tally.PAGES, int(at // 60))

    def problem(self, place: Place, code: str, at: float) -> None:
        """One error more that a person will want to read."""
        self.sums[place]["errors"] += 1
        self.tally(place, Tally.ERROR, code)
        self.tally((place[0], 0), Tally.FAULTS, int(at // 60))

    def fetch(self, place: Place, fetch: FetchRow) -> None:
        """One attempt on the wire."""
        sums = self.sums[place]
        sums["requests"] += 1
        sums["retries"] += fetch.decision == "retry"
        if fetch.reused:
            sums["reused_connections"] += 1
        elif fetch.reused is not None:
            sums["new_connections"] += 1
            sums["dns_s"] += fetch.dns_s or 0.0
            sums["tls_s"] += fetch.tls_s or 0.0
        if fetch.replays:
            sums["replays"] += fetch.replays
        sums["bytes_received"] += fetch.bytes_received
        sums["wait_s"] += fetch.wait_s
        sums["connect_s"] += fetch.connect_s or 0.0
        sums["total_s"] += fetch.total_s
        if fetch.status is not None:
            self.tallies[(*place, _STATUS, fetch.status)] += 1
        if fetch.error is not None:
            self.tally(place, Tally.FETCH_ERROR, fetch.error)
            sums["connect_failures"] += fetch.error in CONNECT_ERRORS
        if fetch.ttfb_s is not None:
            sums["answered"] += 1
            sums["ttfb_s"] += fetch.ttfb_s
            self.tallies[(*place, _TTFB, int(fetch.ttfb_s * 1000).bit_length())] += 1

    def pace(self, place: Place, pace: DomainRow) -> None:
        """What the crawl has learned about a domain: the last one wins."""
        self.sums[place]  # a domain that only paces has a row too
        self.paces[place] = pace
        peaks = (pace.connections, pace.peer_closes, pace.generation)
        known = self.peaks.setdefault(place, peaks)
        if known != peaks:
            self.peaks[place] = tuple(map(max, known, peaks))

    def write(self, connection: sqlite3.Connection) -> None:
        """Add everything to the tables, in the caller's transaction."""
        rows = []
        for place, sums in self.sums.items():
            pace = self.paces.get(place)
            learned = (
                (pace.state, pace.next_at, pace.delay, pace.concurrency)
                if pace
                else (None, None, None, None)
            )
            rows.append((*place, *sums.values(), *self.peaks.get(place, _NO_PEAKS), *learned))
        bulk.write(connection, _ADD, rows)
        tallies = [(*key, n) for key, n in self.tallies.items() if n]
        bulk.write(connection, _TALLY, tallies)
