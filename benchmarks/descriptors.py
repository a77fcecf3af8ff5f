"""Many hosts, few descriptors: `pages` and a spider of ours beside Scrapy and Crawlee.

    python -m benchmarks.descriptors --hosts 500 --limit 64

Owns: the limit, which crawls run under it, what is counted, the table. Does not own: the
crawls (`wide`), the hosts (`hosts`).

Invariants: a crawl is a process in an empty folder whose descriptor limit, soft and hard,
was lowered before it began (`ulimit -n`), so nothing in it can raise it; the server has a
limit of its own; a crawl that does not end is killed and shown with what it had asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from benchmarks.hosts import address, counted, hosts
from benchmarks.measure import ROOT, python
from benchmarks.record import anonymous, conditions, keep, table
from benchmarks.wide import CASES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__: list[str] = []

SCENES = ((500, 64), (5_000, 1024))
"""Hosts, and descriptors that a crawl may have open."""
COMMAND = "ours, crawler run"
DATABASE = "wide.db"
LEGEND = (
    "Pages: read by a callback, each counted once (of a killed crawl: asked for). Failed: "
    "requests that the crawler itself says failed. Descriptors: most open at once in the "
    "crawl's process. Connections: most open at once, and those open after the end, as the "
    "server counts them; `crawler run` is gone by then, the others stay with their loops "
    "running. Error lines: on stderr."
)
AFTER_S = 2.0
"""Seconds between the end of a crawl and the look at what it left open."""
LEAVE_S = 20.0
"""Seconds a process may take to leave after its crawl; then it is killed: `exit -9`."""
LOOK_S = 0.01
"""Seconds between two looks at the descriptors of a crawl."""
ERROR = re.compile(r"^(?:ERROR|CRITICAL|error:).*", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one crawl went."""

    pages: int
    """Pages there are."""
    got: int
    """Different pages that it read; those it had asked for when it was killed."""
    failed: int | None
    """Requests it says failed; None: it did not live to say so."""
    seconds: float
    """From exec until it said it had ended."""
    descriptors: int
    """Most descriptors seen open at once."""
    connections: int
    """Most connections the server had at once while a page was asked for."""
    left: int
    """Connections open AFTER_S after the end: the server's count."""
    errors: int
    """Lines on stderr that are errors."""
    first_error: str
    """The first of them; empty: none."""
    ended: str
    """`yes`, `killed` or its exit code."""


class _Watch(threading.Thread):
    """Looks at the descriptors of another process until it is gone or `stop` is set."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._folder = f"/proc/{pid}/fd"
        self._stopped = threading.Event()
        self._most = 0
        self.start()

    def run(self) -> None:
        while not self._stopped.wait(LOOK_S):
            try:
                self._most = max(self._most, len(os.listdir(self._folder)))
            except OSError:
                return

    def result(self) -> int:
        """The most seen at once."""
        self._stopped.set()
        self.join()
        return self._most


def crawl(case: str, *, count: int, limit: int, links: int, patience: float) -> Outcome:
    """One crawl of `count` hosts with `limit` descriptors, killed after `patience` seconds."""
    with hosts(links=links) as port, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [f"http://{address(number)}:{port}/" for number in range(count)]
        folder.joinpath("urls").write_text("\n".join(lines), encoding="utf-8")
        with folder.joinpath("stderr").open("wb") as err, _started(case, folder, limit, err) as it:
            begun = time.perf_counter()
            watch = _Watch(it.pid)
            told = _last_line(it, patience)
            seconds = time.perf_counter() - begun
            time.sleep(AFTER_S)
            descriptors, seen = watch.result(), counted(port)
        errors = ERROR.findall(folder.joinpath("stderr").read_text("utf-8", errors="replace"))
        was_killed = not told and it.returncode == -signal.SIGKILL
        got, failed = (seen["pages"], None) if was_killed else _result(case, told, folder)
        return Outcome(
            pages=count * (1 + links),
            got=got,
            failed=failed,
            seconds=seconds,
            descriptors=descriptors,
            connections=seen["peak"],
            left=seen["open"],
            errors=len(errors),
            first_error=errors[0] if errors else "",
            ended="killed" if was_killed else f"exit {it.returncode}" if it.returncode else "yes",
        )


@contextmanager
def _started(
    case: str, folder: Path, limit: int, err: BinaryIO
) -> Iterator[subprocess.Popen[bytes]]:
    """The crawl's process; its stdin ends, and it is waited for, at the end."""
    if case == COMMAND:
        command = python("-m", "crawler", "run", "pages", "--urls", "urls", "--db", DATABASE, "-q")
    else:
        command = python("-m", "benchmarks.wide", case, "urls")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(limit), *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=err,
    ) as process:
        try:
            yield process
            assert process.stdin is not None
            process.stdin.close()
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        except BaseException:
            process.kill()
            raise


def _last_line(process: subprocess.Popen[bytes], patience: float) -> str:
    """What it says when its crawl has ended; empty when the process ended, or was killed."""
    assert process.stdout is not None
    timer = threading.Timer(patience, process.kill)
    timer.start()
    try:
        return process.stdout.readline().decode()
    finally:
        timer.cancel()


def _result(case: str, told: str, folder: Path) -> tuple[int, int | None]:
    """Pages got and requests failed, as the crawl itself has them."""
    if case != COMMAND:
        line: dict[str, int] = json.loads(told) if told else {"got": 0}
        return line["got"], line.get("failed")
    if not folder.joinpath(DATABASE).exists():
        return 0, None
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        tables = {row[0] for row in db.execute("select name from sqlite_master")}
        got = db.execute("select count(*) from page").fetchone()[0] if "page" in tables else 0
        failed = db.execute("select count(*) from requests where state = 'failed'").fetchone()[0]
        return int(got), int(failed)


def shown(outcomes: dict[str, Outcome], missing: Sequence[str]) -> str:
    """One row per crawl."""
    head = ["", "pages", "of", "failed", "seconds", "descriptors", "connections"]
    rows = [[*head, f"left after {AFTER_S:g} s", "error lines", "ended"]]
    for label, one in outcomes.items():
        rows.append(
            [
                label,
                str(one.got),
                str(one.pages),
                "" if one.failed is None else str(one.failed),
                f"{one.seconds:.1f}",
                str(one.descriptors),
                str(one.connections),
                str(one.left),
                str(one.errors),
                one.ended,
            ]
        )
    rows.extend([label, "not installed", *([""] * (len(rows[0]) - 2))] for label in missing)
    return table(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.descriptors", description=__doc__)
    parser.add_argument("--hosts", type=int, help="default: 500 with 64, then 5,000 with 1,024")
    parser.add_argument("--limit", type=int, help="descriptors a crawl may have open")
    parser.add_argument("--links", type=int, default=0, help="further pages of each host")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds of a crawl")
    parser.add_argument("--only", help="labels, separated by semicolons")
    parser.add_argument("--no-keep", action="store_true", help="write nothing to results/")
    given = parser.parse_args()
    if (given.hosts is None) != (given.limit is None):
        parser.error("--hosts and --limit belong together")
    return given


def _chosen(only: str | None) -> dict[str, str]:
    """Labels and the module that each needs."""
    known = {COMMAND: "crawler"} | {label: needs for label, (needs, _) in CASES.items()}
    if only is None:
        return known
    wanted = {label.strip() for label in only.split(";")}
    if wanted - known.keys():
        raise SystemExit(
            f"error: --only {'; '.join(wanted - known.keys())}\nhint: there are {'; '.join(known)}"
        )
    return {label: needs for label, needs in known.items() if label in wanted}


def _main() -> None:
    given = _arguments()
    chosen = _chosen(given.only)
    missing = [label for label, needs in chosen.items() if not find_spec(needs)]
    under = conditions(_command(given), "benchmarks.hosts")
    kept: dict[str, object] = {}
    texts: list[str] = []
    for count, limit in [(given.hosts, given.limit)] if given.hosts else SCENES:
        outcomes: dict[str, Outcome] = {}
        for label in chosen:
            if label in missing:
                continue
            print(f"{count} hosts, {limit} descriptors: {label}", flush=True)
            outcomes[label] = crawl(
                label, count=count, limit=limit, links=given.links, patience=given.patience
            )
        kept[f"{count} hosts, {limit} descriptors"] = {
            label: asdict(one) for label, one in outcomes.items()
        }
        texts.append(f"{count} hosts, {limit} descriptors\n\n{shown(outcomes, missing)}")
        print(f"\n{texts[-1]}\n", flush=True)
    text = "\n\n".join([*texts, LEGEND])
    print(LEGEND)
    if not given.no_keep:
        print("\nkept in", keep("descriptors", under, kept, text).name)


def _command(given: argparse.Namespace) -> str:
    words = ["python", "-m", "benchmarks.descriptors", "--patience", f"{given.patience:g}"]
    words += ["--hosts", str(given.hosts), "--limit", str(given.limit)] if given.hosts else []
    words += ["--links", str(given.links)] if given.links else []
    words += ["--only", given.only] if given.only else []
    return anonymous(words)


if __name__ == "__main__":
    _main()
