"""What many pools cost: CPU over 1 to 1,000 of them, memory of idle ones and of passing ones.

    python -m benchmarks.pools [reach|idle|hosts|tls]

Owns: which loads are run and how often, medians, the tables. Does not own: the loads
(`leasing`), the hosts (`hosts`).

Invariants: each measurement is a process of its own; repetitions are interleaved; the
server's CPU and memory never count.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.hosts import hosts
from benchmarks.leasing import AT_ONCE, CLIENTS
from benchmarks.measure import python, run
from benchmarks.record import anonymous, conditions, keep, table

if TYPE_CHECKING:
    from collections.abc import Callable

    Figures = dict[str, float]
    Part = Callable[[argparse.Namespace], tuple[dict[str, Figures], str]]
    """Measures; gives figures by row and a table of them."""

__all__: list[str] = []

POOLS = (1, 10, 100, 1_000)
IDLE = 1_000
HOSTS = 10_000
TLS_REQUESTS = 1_000


def reach(given: argparse.Namespace) -> tuple[dict[str, Figures], str]:
    """CPU of a request at 1, 10, 100 and 1,000 pools."""
    seen: dict[int, list[Figures]] = {}
    with hosts() as port:
        for turn in range(given.repeat):
            print(f"reach, repetition {turn + 1} of {given.repeat}", flush=True)
            for pools in POOLS:
                found = measured("reach", port, size=pools, requests=given.requests)
                seen.setdefault(pools, []).append(found)
    figures = {pools: medians(runs) for pools, runs in seen.items()}
    rows = [["pools", "CPU µs per request", "ratio to 1", "connections", "opened meanwhile"]]
    for pools, one in figures.items():
        ratio = one["cpu_us"] / figures[1]["cpu_us"]
        cells = [f"{one['cpu_us']:.0f}", f"{ratio:.2f}"]
        rows.append([f"{pools:,}", *cells, f"{one['connections']:.0f}", f"{one['opened']:.0f}"])
    text = (
        f"{table(rows)}\n\n{given.requests} requests, {AT_ONCE} at once, over so many domains in "
        f"turn, on connections that are open; median of {given.repeat}."
    )
    return {f"{pools} pools": one for pools, one in figures.items()}, text


def idle(given: argparse.Namespace) -> tuple[dict[str, Figures], str]:
    """Memory of 1,000 idle clients."""
    figures: dict[str, Figures] = {}
    rows = [[f"{IDLE:,} idle clients", "MiB", "KiB each"]]
    cases = {"connection closed": "idle_closed", "connection open": "idle_open"}
    for label, load in cases.items():
        print(f"idle, {label}", flush=True)
        with hosts() as port:
            runs = [measured(load, port, size=IDLE) for _ in range(given.repeat)]
        one = figures[label] = medians(runs)
        rows.append([label, f"{one['mib']:.1f}", f"{one['client_kib']:.1f}"])
    text = f"{table(rows)}\n\nResident memory more than with 1 client, without TLS, each client"
    return figures, f"{text} after 1 request; median of {given.repeat}."


def many(_: argparse.Namespace) -> tuple[dict[str, Figures], str]:
    """Memory while 10,000 hosts pass through 256 clients."""
    print("hosts", flush=True)
    with hosts() as port:
        one = measured("hosts", port, size=HOSTS)
    steps = [int(name.partition("_")[2]) for name in one if name.startswith("mib_")]
    rows = [["hosts so far", "MiB", "objects"]]
    rows += [[f"{at:,}", f"{one[f'mib_{at}']:.1f}", f"{one[f'objects_{at}']:.0f}"] for at in steps]
    mib, objects = (one[f"{what}_{steps[-1]}"] - one[f"{what}_{steps[0]}"] for what in WHAT)
    rows.append([f"growth after {steps[0]:,}", f"{mib:+.1f}", f"{objects:+.0f}"])
    text = (
        f"{table(rows)}\n\nOne request to each of {HOSTS:,} hosts through {CLIENTS} clients: at "
        f"most {one['clients']:.0f} open, {one['evictions']:.0f} evicted. Objects: those that "
        "the collector tracks."
    )
    return {"hosts": one}, text


def tls(given: argparse.Namespace) -> tuple[dict[str, Figures], str]:
    """Reuse over TLS."""
    print("tls", flush=True)
    with hosts(tls=True) as port:
        runs = [measured("tls", port, requests=TLS_REQUESTS) for _ in range(given.repeat)]
    one = medians(runs)
    rows = [
        ["TLS", "requests", "handshakes", "reused", "CPU µs per request"],
        [
            "8 connections",
            f"{TLS_REQUESTS:,}",
            f"{one['new']:.0f}",
            f"{one['ratio']:.2%}",
            f"{one['cpu_us']:.0f}",
        ],
    ]
    text = f"{table(rows)}\n\nThe CPU includes the handshakes; median of {given.repeat}."
    return {"tls": one}, text


WHAT = ("mib", "objects")
PARTS: dict[str, Part] = {"reach": reach, "idle": idle, "hosts": many, "tls": tls}


def measured(load: str, port: int, *, size: int = 1, requests: int = 1) -> Figures:
    """One load in a process of its own."""
    command = python("-m", "benchmarks.leasing", load, str(port))
    told = run([*command, "--size", str(size), "--requests", str(requests)])
    figures: Figures = json.loads(told.output)
    return figures


def medians(runs: list[Figures]) -> Figures:
    """Of each figure."""
    return {name: median(one[name] for one in runs) for name in runs[0]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pools", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all"
    )
    parser.add_argument("--requests", type=int, default=4_000, help="in each run of reach")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-keep", action="store_true", help="write nothing to results/")
    given = parser.parse_args()
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


def _main() -> None:
    given = _arguments()
    under = conditions(_command(given), "benchmarks.hosts")
    kept: dict[str, object] = {}
    texts: list[str] = []
    for name in given.parts or PARTS:
        kept[name], text = PARTS[name](given)
        texts.append(text)
        print(f"\n{text}\n", flush=True)
    if not given.no_keep:
        name = "-".join(["pools", *given.parts])
        print("kept in", keep(name, under, kept, "\n\n".join(texts)).name)


def _command(given: argparse.Namespace) -> str:
    words = ["python", "-m", "benchmarks.pools", *given.parts]
    words += ["--requests", str(given.requests), "--repeat", str(given.repeat)]
    return anonymous(words)


if __name__ == "__main__":
    _main()
