"""CPU of one kept-alive GET: our client cache, httpx, httpx-aiohttp, aiohttp.

    python -m benchmarks.transport

Owns: the order of the cases, medians, the table. Does not own: the cases (`gets`), the
server (`serving`).

Invariants: each measurement is a process of its own that counts its own CPU, so the
server's never counts; repetitions are interleaved, so that a busy minute of the machine
falls on all cases.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.gets import CASES, LOOPS
from benchmarks.measure import python, run
from benchmarks.record import anonymous, conditions, keep, table
from benchmarks.serving import served
from benchmarks.tree import write_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["request_cost", "source"]

CONNECTIONS = (1, 8, 16, 64, 256)
PAGES = 1_000
"""Pages of the generated tree."""
Figures = dict[str, dict[int, dict[str, float]]]
"""Case, connections, figure."""


@contextmanager
def source(url: str | None, tree: Path | None, start: str) -> Iterator[tuple[str, str]]:
    """A start URL and the server's name: a running server, a folder, or generated pages."""
    if url is not None:
        yield url, "a server that was running"
    elif tree is not None:
        with served(tree) as (origin, name):
            yield f"{origin}/{start}", name
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_tree(Path(folder), PAGES)
            with served(Path(folder)) as (origin, name):
                yield f"{origin}/index.html", f"{name}, {PAGES} generated pages"


def request_cost(
    case: str, urls: Sequence[str], *, requests: int, connections: int, loop: str
) -> dict[str, float]:
    """One measurement: `cpu_us`, `per_s` and `bytes` of a request over `urls` in turn."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "urls")
        listed.write_text("\n".join(urls), encoding="utf-8")
        command = python("-m", "benchmarks.gets", case, str(listed), "--loop", loop)
        command += ["--requests", str(requests), "--connections", str(connections)]
        told = run(command)
    figures: dict[str, float] = json.loads(told.output)
    return figures


def compare(
    url: str, cases: Sequence[str], *, counts: Sequence[int], repeat: int, requests: int, loop: str
) -> Figures:
    """The medians of every case at every number of connections."""
    seen: dict[tuple[str, int], list[dict[str, float]]] = {}
    for turn in range(repeat):
        print(f"repetition {turn + 1} of {repeat}", flush=True)
        for connections in counts:
            for case in cases:
                cost = request_cost(
                    case, [url], requests=requests, connections=connections, loop=loop
                )
                seen.setdefault((case, connections), []).append(cost)
    return {
        case: {
            count: {name: median(one[name] for one in seen[case, count]) for name in runs[0]}
            for count in counts
        }
        for case, runs in ((case, seen[case, counts[0]]) for case in cases)
    }


def shown(figures: Figures, counts: Sequence[int], missing: Sequence[str]) -> str:
    """CPU µs, and in brackets the ratio to httpx where that was measured."""
    rows = [["CPU µs per GET at connections", *map(str, counts)]]
    for case, at in figures.items():
        cells = []
        for count in counts:
            cost = at[count]["cpu_us"]
            by = figures["httpx"][count]["cpu_us"] if "httpx" in figures else None
            cells.append(f"{cost:.0f}" + (f" ({cost / by:.2f})" if by else ""))
        rows.append([case, *cells])
    rows.extend([case, *(["not installed"] + [""] * (len(counts) - 1))] for case in missing)
    return table(rows)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(count) for count in text.split(","))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transport", description=__doc__)
    parser.add_argument("--url", help="a page of a running server; default: one is started")
    parser.add_argument("--connections", type=_counts, default=CONNECTIONS, metavar="N,N")
    parser.add_argument("--requests", type=int, default=1_000, help="in each measurement")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--loop", choices=LOOPS, default="uvloop")
    parser.add_argument("--no-keep", action="store_true", help="write nothing to results/")
    return parser.parse_args()


def _main() -> None:
    given = _arguments()
    counts = given.connections
    cases = [case for case, (module, _) in CASES.items() if find_spec(module)]
    missing = [case for case in CASES if case not in cases]
    with source(given.url, None, "") as (url, server):
        under = conditions(_command(given), server)
        figures = compare(
            url,
            cases,
            counts=counts,
            repeat=given.repeat,
            requests=given.requests,
            loop=given.loop,
        )
    size = figures[cases[0]][counts[0]]["bytes"]
    text = (
        f"{shown(figures, counts, missing)}\n\nIn brackets: ratio to httpx. A page of {size:.0f} "
        f"bytes, {given.loop}, {given.requests} requests, median of {given.repeat}. The CPU is "
        "the client process's own, after as many requests (or 16 on each connection) that do "
        "not count."
    )
    print(text)
    if not given.no_keep:
        print("\nkept in", keep("transport", under, dict(figures), text).name)


def _command(given: argparse.Namespace) -> str:
    words = ["python", "-m", "benchmarks.transport", "--connections"]
    words += [",".join(map(str, given.connections))]
    words += ["--requests", str(given.requests), "--repeat", str(given.repeat)]
    words += ["--loop", given.loop] + (["--url", given.url] if given.url else [])
    return anonymous(words)


if __name__ == "__main__":
    _main()
