"""A whole crawl: `pages` beside hand-written loops, Scrapy and Crawlee.

    python -m benchmarks.crawl

Owns: which crawls are run and how often, medians, the table. Does not own: the peers
(`loops`), the server (`serving`), how a process is measured (`measure`), the split
(`split`).

Invariants: a crawl is a process in an empty folder, counted from exec to exit; the same
with one page is its start-up; repetitions are interleaved; the server never counts.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.measure import python, run
from benchmarks.record import anonymous, conditions, keep, table
from benchmarks.split import split_of
from benchmarks.transport import source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.measure import Usage

__all__: list[str] = []

OURS = "ours"
DEFAULTS = "ours, default settings"
MEASURE = "httpx loop"
"""What the others are compared with."""
FAST = ("-s", "domain.delay=0", "-s", "domain.concurrency=16")


@dataclass(frozen=True, slots=True)
class Crawler:
    """One way to crawl."""

    label: str
    command: Callable[[str, int, Path], list[str]]
    """From start URL, number of pages (0: all) and an empty folder."""
    needs: str
    """The module without which it is not installed."""
    counted: Callable[[Usage, Path], int]
    """The pages it got."""
    runs_in_folder: bool = True
    """False: in the current one, so that the command may name files of its user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Medians over the repetitions."""

    pages: int
    cpu_s: float
    start_s: float
    """CPU of the same crawl with one page."""
    wall_s: float
    rss_mb: float
    cpu_runs_s: tuple[float, ...]
    """CPU of each repetition."""

    @property
    def page_ms(self) -> float:
        """CPU of a page, the whole process counted."""
        return self.cpu_s / self.pages * 1e3

    @property
    def further_page_ms(self) -> float:
        """CPU of a page after the first."""
        return (self.cpu_s - self.start_s) / max(1, self.pages - 1) * 1e3


def ours(label: str, *settings: str) -> Crawler:
    """`crawler run pages`, with settings."""

    def command(url: str, pages: int, folder: Path) -> list[str]:
        limit = ["--limit", str(pages)] if pages else []
        return python("-m", "crawler", "run", "pages", url, *settings, "--db", "p.db", *limit)

    def counted(_: Usage, folder: Path) -> int:
        with closing(sqlite3.connect(folder / "p.db")) as db:
            return int(db.execute("select count(*) from page").fetchone()[0])

    return Crawler(label, command, "crawler", counted)


def loop(label: str, module: str, needs: str, *kind: str) -> Crawler:
    """One of `benchmarks.loops`."""

    def command(url: str, pages: int, folder: Path) -> list[str]:
        return python("-m", f"benchmarks.loops.{module}", url, str(pages), *kind)

    return Crawler(label, command, needs, _told)


def foreign(text: str) -> Crawler:
    """Somebody's own: `LABEL=COMMAND {url} {pages} {folder}`."""
    label, equals, words = text.partition("=")
    if not equals:
        raise SystemExit(f"error: --also {text}\nhint: LABEL=COMMAND with {{url}} and {{pages}}")

    def command(url: str, pages: int, folder: Path) -> list[str]:
        filled = {"{url}": url, "{pages}": str(pages), "{folder}": str(folder)}
        found = shlex.split(words)
        for mark, value in filled.items():
            found = [word.replace(mark, value) for word in found]
        return found

    return Crawler(label, command, "sys", _told, runs_in_folder=False)


def _told(usage: Usage, _: Path) -> int:
    """`"pages": 12` or `pages 12` on stdout, the last time it is said."""
    said = re.findall(r"\bpages\W{1,4}(\d+)", usage.output)
    if not said:
        raise SystemExit("error: a crawl did not print its number of pages")
    return int(said[-1])


PEERS = (
    loop("aiohttp loop", "aiohttp_loop", "aiohttp"),
    loop(MEASURE, "httpx_loop", "httpx"),
    loop("Scrapy", "scrapy_loop", "scrapy"),
    loop("Crawlee, in memory", "crawlee_loop", "crawlee", "memory"),
    loop("Crawlee, SQLite", "crawlee_loop", "crawlee", "sql"),
)


def crawl_once(crawler: Crawler, url: str, pages: int) -> tuple[int, Usage]:
    """One crawl in an empty folder: pages, and what it took. SystemExit without a page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = crawler.command(url, pages, folder)
        usage = run(command, folder=folder if crawler.runs_in_folder else None)
        found = crawler.counted(usage, folder)
        if not found:
            raise SystemExit(f"error: {crawler.label} got no page from {url}")
        return found, usage


def compare(url: str, crawlers: Sequence[Crawler], *, pages: int, repeat: int) -> dict[str, Cost]:
    """Every crawl `repeat` times, in turn."""
    whole: dict[str, list[tuple[int, Usage]]] = {}
    starts: dict[str, list[Usage]] = {}
    for turn in range(repeat):
        for crawler in crawlers:
            print(f"repetition {turn + 1} of {repeat}: {crawler.label}", flush=True)
            starts.setdefault(crawler.label, []).append(crawl_once(crawler, url, 1)[1])
            whole.setdefault(crawler.label, []).append(crawl_once(crawler, url, pages))
    return {
        label: Cost(
            pages=round(median(count for count, _ in runs)),
            cpu_s=median(usage.cpu_s for _, usage in runs),
            start_s=median(usage.cpu_s for usage in starts[label]),
            wall_s=median(usage.wall_s for _, usage in runs),
            rss_mb=median(usage.rss_mb for _, usage in runs),
            cpu_runs_s=tuple(round(usage.cpu_s, 3) for _, usage in runs),
        )
        for label, runs in whole.items()
    }


def shown(figures: dict[str, Cost], missing: Sequence[str]) -> str:
    """One row per crawl, ratios to the httpx loop where that ran."""
    head = ["", "pages", "CPU ms/page", "× httpx loop", "start-up CPU s"]
    head += ["ms per further page", "× httpx loop", "pages/s", "RSS MiB"]
    rows = [head]
    by = figures.get(MEASURE)
    for label, one in figures.items():
        rows.append(
            [
                label,
                str(one.pages),
                f"{one.page_ms:.3f}",
                f"{one.page_ms / by.page_ms:.2f}" if by else "",
                f"{one.start_s:.2f}",
                f"{one.further_page_ms:.3f}",
                f"{one.further_page_ms / by.further_page_ms:.2f}" if by else "",
                f"{one.pages / one.wall_s:.0f}",
                f"{one.rss_mb:.0f}",
            ]
        )
    rows.extend([label, "not installed", *([""] * (len(head) - 2))] for label in missing)
    return table(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crawl", description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="start URL on a running server")
    where.add_argument("--tree", type=Path, help="a folder of HTML, served for the run")
    parser.add_argument("--start", default="index.html", help="page of --tree to begin with")
    parser.add_argument("--pages", type=int, default=0, help="end after so many; 0: all")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", help="labels, separated by semicolons")
    parser.add_argument("--also", action="append", default=[], metavar="LABEL=COMMAND")
    parser.add_argument("--default-settings", action="store_true", help="ours without -s, too")
    parser.add_argument("--split", action="store_true", help="where our CPU goes")
    parser.add_argument("--no-keep", action="store_true", help="write nothing to results/")
    return parser.parse_args()


def _chosen(given: argparse.Namespace) -> list[Crawler]:
    crawlers = [ours(OURS, *FAST)]
    if given.default_settings:
        crawlers.append(ours(DEFAULTS))
    crawlers += [*PEERS, *map(foreign, given.also)]
    if given.only is None:
        return crawlers
    wanted = {label.strip() for label in given.only.split(";")}
    unknown = wanted - {crawler.label for crawler in crawlers}
    if unknown:
        known = "; ".join(crawler.label for crawler in crawlers)
        raise SystemExit(f"error: --only {'; '.join(unknown)}\nhint: there are {known}")
    return [crawler for crawler in crawlers if crawler.label in wanted]


def _main() -> None:
    given = _arguments()
    chosen = _chosen(given)
    present = [crawler for crawler in chosen if find_spec(crawler.needs)]
    missing = [crawler.label for crawler in chosen if crawler not in present]
    with source(given.url, given.tree, given.start) as (url, server):
        under = conditions(_command(given), server)
        figures = compare(url, present, pages=given.pages, repeat=given.repeat)
        split = split_of(url, FAST, pages=given.pages, repeat=given.repeat) if given.split else None
    text = (
        f"{shown(figures, missing)}\n\nMedian of {given.repeat}. CPU: user and system time of "
        "the process and its children, from exec to exit; start-up: the same crawl with one "
        "page. 16 requests at once, but for the default settings."
    )
    if split is not None:
        text += f"\n\n{split.shown()}"
    print(text)
    if not given.no_keep:
        kept: dict[str, object] = {label: asdict(one) for label, one in figures.items()}
        if split is not None:
            kept["split"] = asdict(split)
        print("\nkept in", keep("crawl", under, kept, text).name)


def _command(given: argparse.Namespace) -> str:
    words = ["python", "-m", "benchmarks.crawl", "--repeat", str(given.repeat)]
    words += ["--url", given.url] if given.url else []
    words += ["--tree", str(given.tree), "--start", given.start] if given.tree else []
    words += ["--pages", str(given.pages)] if given.pages else []
    words += ["--only", given.only] if given.only else []
    for text in given.also:
        words += ["--also", f"{text.partition('=')[0]}=COMMAND"]
    words += ["--default-settings"] if given.default_settings else []
    words += ["--split"] if given.split else []
    return anonymous(words)


if __name__ == "__main__":
    _main()
