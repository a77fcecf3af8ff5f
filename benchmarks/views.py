"""How long it takes to look at a large database: `python -m benchmarks.views`.

Owns: which questions are asked, and their times. Does not own: the database (`filled`).

Invariants: the file is made once for each size and schema, and read only; a time is the
median of several, the file in the system's cache; a command's time is that of the whole
process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import filled
from benchmarks.filled import fill, url_of
from benchmarks.measure import python, run
from benchmarks.record import anonymous, conditions, keep, table
from storage.reading import Reader
from storage.schema import TABLES, VIEWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__: list[str] = []

SIZES = ((1_000_000, 1_000), (1_000_000, 100_000))
"""Requests (as many fetches, as many items in each of two tables), and domains."""
COUNTED = 200_000
"""Rows up to which a view is also counted."""
LATEST = ("book_latest", "quote_latest")
COMMANDS = ("status", "runs", "report", "errors")
LEGEND = (
    "ms, medians. First 1,000: `select * from VIEW limit 1000` (items: `limit 100`). All: "
    "`select count(*)`, of views with at most 200,000 rows and of the items. A command is timed "
    "from its start to its end, the start of Python included, which is what `--version` takes."
)


def database(requests: int, domains: int) -> Path:
    """The file of that size, made when it is not there."""
    recipe = Path(filled.__file__).read_bytes() + repr((TABLES, VIEWS)).encode()
    name = f"{requests}-{domains}-{blake2b(recipe, digest_size=6).hexdigest()}.db"
    folder = Path(tempfile.gettempdir(), "crawler-views")
    folder.mkdir(exist_ok=True)
    path = folder / name
    if not path.exists():
        for old in folder.glob(f"{requests}-{domains}-*"):
            old.unlink()
        made = path.with_suffix(f".{os.getpid()}")
        fill(made, requests=requests, domains=domains, items=requests)
        made.rename(path)
    return path


def _ms(work: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return median(times) * 1e3


def views(path: Path, repeat: int) -> dict[str, dict[str, float]]:
    """Milliseconds by view: its first rows, and all of them where they are few."""
    found = {}
    with Reader(path) as reader:
        for name in [*(view.name for view in VIEWS), *LATEST]:
            few = 100 if name in LATEST else 1_000
            first = _ms(lambda n=name, k=few: reader.query(f"SELECT * FROM {n} LIMIT {k}"), repeat)  # type: ignore[misc]
            found[name] = {"first_ms": first}
            rows = reader.query(f"SELECT count(*) FROM {name}")[1][0][0]
            if rows <= COUNTED or name in LATEST:
                every = _ms(lambda n=name: reader.query(f"SELECT count(*) FROM {n}"), repeat)  # type: ignore[misc]
                found[name] |= {"rows": rows, "all_ms": every}
    return found


def commands(path: Path, url: str, repeat: int) -> dict[str, float]:
    """Milliseconds by command, each a process."""
    lines = {"--version": ["--version"]}
    lines |= {name: [name, str(path)] for name in COMMANDS}
    lines |= {"errors --code": ["errors", str(path), "--code", "http-404"]}
    lines |= {"why URL": ["why", url, str(path)]}
    lines |= {"why URL, never seen": ["why", f"{url}/never", str(path)]}
    lines |= {"requeue --dry-run": ["requeue", str(path), "--dry-run"]}
    return {
        name: _ms(lambda line=line: run(python("-m", "crawler", *line)), repeat)  # type: ignore[misc]
        for name, line in lines.items()
    }


def _shown(of_views: dict[str, dict[str, float]], of_commands: dict[str, float]) -> str:
    rows = [["view", "first 1,000", "all", "rows"]]
    for name, times in of_views.items():
        every = f"{times['all_ms']:.1f}" if "all_ms" in times else "–"
        number = f"{times['rows']:,.0f}" if "rows" in times else "–"
        rows.append([f"`{name}`", f"{times['first_ms']:.1f}", every, number])
    told = [["command", "whole process"]]
    told += [[f"`crawler {name}`", f"{ms:.0f}"] for name, ms in of_commands.items()]
    return f"{table(rows)}\n\n{table(told)}"


def _known_url(path: Path, domains: int) -> str:
    """Of a page in the latest run."""
    with Reader(path) as reader:
        (number,) = reader.query("SELECT max(id) FROM requests WHERE run = 'books-2'")[1][0]
    return url_of(number, domains)


def _main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, help="instead of both sizes; with --domains")
    parser.add_argument("--domains", type=int)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-keep", action="store_true", help="write nothing to results/")
    given = parser.parse_args(argv)
    if (given.requests is None) != (given.domains is None):
        parser.error("--requests and --domains belong together")
    sizes = [(given.requests, given.domains)] if given.requests else list(SIZES)
    words = ["python", "-m", "benchmarks.views", "--repeat", str(given.repeat)]
    words += ["--requests", str(given.requests), "--domains", str(given.domains)] * bool(
        given.requests
    )
    under = conditions(anonymous(words), "no server")
    figures, texts = {}, []
    for requests, domains in sizes:
        title = f"{requests:,} requests, {domains:,} domains"
        print(f"{title}: making the file, reading it", flush=True)
        path = database(requests, domains)
        of_views = views(path, given.repeat)
        of_commands = commands(path, _known_url(path, domains), given.repeat)
        figures[title] = {"views": of_views, "commands": of_commands}
        texts.append(f"{title}\n\n{_shown(of_views, of_commands)}")
        print(f"\n{texts[-1]}\n", flush=True)
    print(LEGEND)
    if not given.no_keep:
        print("\nkept in", keep("views", under, figures, "\n\n".join([*texts, LEGEND])).name)


if __name__ == "__main__":
    _main()
