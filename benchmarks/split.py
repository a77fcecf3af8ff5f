"""Where the CPU of our crawl goes: start-up, transport, parsing, storage thread, the rest.

Owns: the method and its figures. Does not own: the crawl.

Method: the whole crawl is counted from outside, its threads apart; start-up is the crawl
of one page. Transport is what the client cache costs at 16 connections over the very URLs
of the crawl, measured alone. Parsing is what tree, title and resolved links cost for the
same bodies, measured alone. What is left of the main thread is the engine.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.measure import python, run
from benchmarks.record import table
from benchmarks.transport import request_cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import Usage

__all__ = ["Split", "split_of"]

CONNECTIONS = 16
REQUESTS = 1_000
"""At least so many GETs measure the transport."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """CPU of our crawl, medians; milliseconds per page."""

    pages: int
    whole_ms: float
    start_ms: float
    """The crawl of one page, spread over all pages."""
    transport_ms: float
    parse_ms: float
    threads_ms: float | None
    """Threads beside the loop's: storage. None: the system does not tell."""

    @property
    def without_transport_ms(self) -> float:
        """Everything after start-up except the transport."""
        return self.whole_ms - self.start_ms - self.transport_ms

    @property
    def engine_ms(self) -> float:
        """What no other part explains."""
        return self.without_transport_ms - self.parse_ms - (self.threads_ms or 0.0)

    def shown(self) -> str:
        """A table and how it came about."""
        threads = "not measured" if self.threads_ms is None else f"{self.threads_ms:.3f}"
        rows = [
            ["where our CPU goes", "ms/page"],
            ["whole", f"{self.whole_ms:.3f}"],
            ["start-up", f"{self.start_ms:.3f}"],
            ["transport", f"{self.transport_ms:.3f}"],
            ["everything else", f"{self.without_transport_ms:.3f}"],
            ["of that: tree, title, links", f"{self.parse_ms:.3f}"],
            ["of that: storage thread", threads],
            ["of that: engine", f"{self.engine_ms:.3f}"],
        ]
        return (
            f"{table(rows)}\n\n{self.pages} pages. Start-up: a crawl of one page. Transport: the "
            f"client cache alone at {CONNECTIONS} connections over the same URLs. Tree, title, "
            "links: alone, over the same bodies. Storage thread: CPU of the threads beside the "
            "loop's, less those of a crawl of one page. Engine: the rest."
        )


def split_of(url: str, settings: Sequence[str], *, pages: int, repeat: int) -> Split:
    """Crawl, then measure the parts over the pages that were found."""
    wholes: list[Usage] = []
    starts: list[Usage] = []
    transport: list[float] = []
    parsing: list[float] = []
    for turn in range(repeat):
        print(f"split, repetition {turn + 1} of {repeat}", flush=True)
        starts.append(_crawled(url, settings, 1)[0])
        usage, urls = _crawled(url, settings, pages)
        wholes.append(usage)
        requests = max(REQUESTS, len(urls))
        cost = request_cost("ours", urls, requests=requests, connections=CONNECTIONS, loop="uvloop")
        transport.append(cost["cpu_us"] / 1e3)
        parsing.append(_parsing(urls))
    each = 1e3 / len(urls)
    return Split(
        pages=len(urls),
        whole_ms=median(usage.cpu_s for usage in wholes) * each,
        start_ms=median(usage.cpu_s for usage in starts) * each,
        transport_ms=median(transport),
        parse_ms=median(parsing),
        threads_ms=_threads(wholes, starts, each),
    )


def _threads(wholes: Sequence[Usage], starts: Sequence[Usage], each: float) -> float | None:
    seen = [usage.threads_s for usage in wholes if usage.threads_s is not None]
    at_start = [usage.threads_s for usage in starts if usage.threads_s is not None]
    if not seen or not at_start:
        return None
    return (median(seen) - median(at_start)) * each


def _crawled(url: str, settings: Sequence[str], pages: int) -> tuple[Usage, list[str]]:
    limit = ["--limit", str(pages)] if pages else []
    with tempfile.TemporaryDirectory() as name:
        command = python("-m", "crawler", "run", "pages", url, *settings, "--db", "p.db", *limit)
        usage = run(command, folder=Path(name), watch=True)
        with closing(sqlite3.connect(Path(name, "p.db"))) as db:
            return usage, [row[0] for row in db.execute("select url from page")]


def _parsing(urls: Sequence[str]) -> float:
    """Milliseconds a page, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        listed = Path(name, "urls")
        listed.write_text("\n".join(urls), encoding="utf-8")
        told = run(python("-m", "benchmarks.parsing", str(listed)))
    return float(json.loads(told.output)["cpu_us"]) / 1e3
