"""How soon the command answers: its help, and the first request of a crawl.

    python -m benchmarks.start

Owns: the three scenes, the table. Does not own: what a start is made of.

Invariants: every run is a process of its own, in an empty folder, and counts from before
it is made; the scenes take turns, so that a busy moment of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.measure import python, run
from benchmarks.record import anonymous, conditions, keep, table
from crawler.testing import Reply, Site

if TYPE_CHECKING:
    from collections.abc import Callable

__all__: list[str] = []

REPEAT = 20
BOUNDS = {"crawler --help": 0.15, "crawler run --help": 0.15, "first request of a crawl": 0.4}
"""Seconds that each may take (docs/decisions.md)."""
LEGEND = (
    "ms from before the process is made: until it has ended for the help; until the server "
    "has the whole first request, that of robots.txt, for a crawl into a new database."
)


def help_s(*arguments: str) -> float:
    """Seconds that a help takes."""
    return run(python("-m", "crawler", *arguments, "--help")).wall_s


def first_request_s() -> float:
    """Seconds until the first request of a crawl has come."""
    with Site({"/": Reply.html("<title>hello</title>")}).threaded() as site:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            command = python("-m", "crawler", "run", "pages", site.url("/"), "-q")
            subprocess.run(command, cwd=folder, check=True)
        return site.log[0].at - begun


SCENES: dict[str, Callable[[], float]] = {
    "crawler --help": help_s,
    "crawler run --help": lambda: help_s("run"),
    "first request of a crawl": first_request_s,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start")
    parser.add_argument("--repeat", type=int, default=REPEAT, help="runs of each scene")
    parser.add_argument("--no-keep", action="store_true", help="write no results")
    asked = parser.parse_args()
    under = conditions(f"python -m benchmarks.start {anonymous(sys.argv[1:])}".strip(), "Site")
    for scene in SCENES.values():
        scene()  # byte code is written, files are in the page cache
    figures: dict[str, list[float]] = {name: [] for name in SCENES}
    for _ in range(asked.repeat):
        for name, scene in SCENES.items():
            figures[name].append(scene())
    rows = [("", "median", "least", "most", "may take")]
    rows += [
        (name, _ms(median(each)), _ms(min(each)), _ms(max(each)), _ms(BOUNDS[name]))
        for name, each in figures.items()
    ]
    text = f"{table(rows)}\n\n{LEGEND}"
    print(text)
    if not asked.no_keep:
        keep("start", under, {"seconds": figures}, text)
    return int(any(median(each) > BOUNDS[name] for name, each in figures.items()))


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f}"


if __name__ == "__main__":
    sys.exit(main())
