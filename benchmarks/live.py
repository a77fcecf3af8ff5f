"""What the live view costs: a crawl at about 500 pages/s, with it and without it.

    python -m benchmarks.live

Owns: the crawl, its terminal, which share of its CPU the view takes, the table. Does not
own: the hosts (`hosts`), the view.

Invariants: both crawls are the same, under the same pace, each in a process of its own
with a pseudo-terminal of 120 columns and 40 rows that somebody reads; turns alternate;
the view's CPU is what its thread spends from the making of the figures to the end of the
write, counted in the process itself, for it is less than two crawls differ by.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import struct
import subprocess
import tempfile
import termios
import threading
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.hosts import address, hosts
from benchmarks.measure import ROOT, python
from benchmarks.record import anonymous, conditions, keep, table

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["open_terminal", "terminal_environ"]

HOSTS = 50
DELAY_S = 0.1
"""Of each host: 50 hosts give 500 pages/s."""
FORMS = ("full", "off")
COLUMNS, ROWS = 120, 40
LEGEND = (
    "CPU: of the whole process, start and end included. View: CPU spent on it, from the"
    " figures to the terminal, and its share of one processor while the crawl ran."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One crawl."""

    pages: int
    seconds: float
    """That the view was up, or would have been."""
    cpu_s: float
    view_s: float
    drawn: int
    """Drawings; 0 without a view."""

    @property
    def share(self) -> float:
        """Of one processor, that the view took."""
        return self.view_s / self.seconds


# -- the crawl -------------------------------------------------------------------------------


def crawl_here(form: str, urls: str, told: str) -> int:
    """Crawl in this process, and write what the view took into the file `told`."""
    from crawler.cli import main
    from crawler.cli.watching import Watch

    spent: list[float] = []
    look = Watch.look
    begun: list[float] = []

    def counted(self: Watch) -> None:
        begun.append(time.monotonic())
        before = time.thread_time()
        look(self)
        spent.append(time.thread_time() - before)

    Watch.look = counted  # type: ignore[method-assign]
    pace = ["-s", f"domain.delay={DELAY_S}", "--live", form]
    code = main(["run", "pages", "--urls", urls, "--db", "live.db", *pace])
    if code:
        return code
    figures = {"view_s": sum(spent), "seconds": time.monotonic() - begun[0], "drawn": len(spent)}
    Path(told).write_text(json.dumps(figures), encoding="utf-8")
    return code


def crawl(form: str, port: int) -> Turn:
    """Crawl all hosts in a process with a terminal of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        urls = [f"http://{address(number)}:{port}/" for number in range(HOSTS)]
        folder.joinpath("urls.txt").write_text("\n".join(urls), encoding="utf-8")
        here = ["-m", "benchmarks.live", "--here", form]
        cpu_s = _on_terminal(python(*here), folder)
        figures = json.loads(folder.joinpath("told.json").read_text(encoding="utf-8"))
        figures["drawn"] *= form == "full"
        return Turn(cpu_s=cpu_s, pages=_pages(folder / "live.db"), **figures)


def open_terminal(columns: int, rows: int) -> tuple[int, int]:
    """Both ends of a pseudo-terminal, ours first."""
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    return ours, theirs


def terminal_environ() -> dict[str, str]:
    """Variables of a process on one that has colours."""
    kept = {n: v for n, v in os.environ.items() if n not in ("CI", "NO_COLOR")}
    return {**kept, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}


def _on_terminal(command: Sequence[str], folder: Path) -> float:
    """CPU seconds of a command whose stderr is a terminal. SystemExit when it fails."""
    ours, theirs = open_terminal(COLUMNS, ROWS)
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=terminal_environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    read: list[bytes] = []
    reader = threading.Thread(target=_follow, args=(ours, read))
    reader.start()
    _, status, counted = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    os.close(ours)
    if process.returncode:
        told = b"".join(read).decode(errors="replace")[-2000:]
        raise SystemExit(f"error: {' '.join(command)}: exit {process.returncode}\n{told}")
    return counted.ru_utime + counted.ru_stime


def _follow(descriptor: int, read: list[bytes]) -> None:
    while True:
        try:
            data = os.read(descriptor, 65_536)
        except OSError:  # the other end is closed
            return
        read.append(data)


def _pages(database: Path) -> int:
    import sqlite3

    with closing(sqlite3.connect(database)) as db:
        return int(db.execute("select count(*) from page").fetchone()[0])


# -- the table -------------------------------------------------------------------------------


def shown(turns: dict[str, list[Turn]]) -> str:
    rows = [["--live", "pages/s", "CPU s", "CPU ms/page", "drawings", "view s", "view's share"]]
    for form, each in turns.items():
        cpu_s, pages = median(turn.cpu_s for turn in each), median(turn.pages for turn in each)
        rows.append(
            [
                form,
                f"{median(turn.pages / turn.seconds for turn in each):.0f}",
                f"{cpu_s:.2f}",
                f"{cpu_s / pages * 1e3:.3f}",
                f"{median(turn.drawn for turn in each):.0f}",
                f"{median(turn.view_s for turn in each):.3f}",
                f"{median(turn.share for turn in each) * 100:.2f} %",
            ]
        )
    return table(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="that a crawl takes, about")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-keep", action="store_true", help="write nothing to results/")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    return parser.parse_args()


def _main() -> None:
    given = _arguments()
    if given.here:
        raise SystemExit(crawl_here(given.here, "urls.txt", "told.json"))
    command = f"python -m benchmarks.live --seconds {given.seconds} --repeat {given.repeat}"
    under = conditions(anonymous(command.split()), "benchmarks.hosts")
    turns: dict[str, list[Turn]] = {form: [] for form in FORMS}
    for number in range(given.repeat):
        for form in FORMS if number % 2 == 0 else reversed(FORMS):
            with hosts(links=round(given.seconds / DELAY_S)) as port:
                turns[form].append(crawl(form, port))
            print(f"turn {number + 1}, {form}: {turns[form][-1].cpu_s:.2f} s CPU", flush=True)
    text = f"{shown(turns)}\n\n{LEGEND}"
    print(f"\n{text}")
    if not given.no_keep:
        figures = {form: [asdict(turn) for turn in each] for form, each in turns.items()}
        print("\nkept in", keep("live", under, figures, text).name)


if __name__ == "__main__":
    _main()
