"""What a figure needs to mean something later: date, machine, versions, command.

Owns: collecting these, the table, and the files in `results/`. Does not own: figures.

Invariants: no absolute path, user or host name of this machine is written.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["anonymous", "conditions", "keep", "table"]

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "aiohttp",
    "crawlee",
    "httpcore",
    "httpx",
    "httpx-aiohttp",
    "scrapy",
    "selectolax",
    "uvloop",
)
GIB = 1024**3


def conditions(command: str, server: str) -> dict[str, Any]:
    """Under what the figures came about."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "server": server,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": _cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in PACKAGES},
    }


def anonymous(arguments: Sequence[str]) -> str:
    """Arguments as typed, but for the paths and hosts of this machine."""
    return " ".join(_shown(argument) for argument in arguments)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the head, the first column text, the others figures."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        " | ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = " | ".join(
        "-" * (width - 1) + ":" if place else "-" * width for place, width in enumerate(widths)
    )
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def keep(name: str, under: dict[str, Any], figures: dict[str, Any], text: str) -> Path:
    """Write `results/DATE-NAME.json` and `.md`; the latter's path."""
    RESULTS.mkdir(exist_ok=True)
    stem = f"{under['date'][:10]}-{name}"
    whole = json.dumps({"conditions": under, "figures": figures}, indent=1)
    RESULTS.joinpath(f"{stem}.json").write_text(whole + "\n", encoding="utf-8")
    path = RESULTS / f"{stem}.md"
    path.write_text(f"# {name}, {under['date']}\n\n{text}\n\n{_listed(under)}\n", encoding="utf-8")
    return path


def _listed(under: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in under["packages"].items())
    return (
        f"`{under['command']}`\n\n"
        f"{under['cpu']}, {under['cores']} cores, {under['memory_gib']} GiB, {under['system']}; "
        f"{under['python']}; {under['server']}; load before: {under['load_before']}\n\n{packages}"
    )


def _shown(argument: str) -> str:
    if "://" in argument:
        host = urlsplit(argument).hostname or ""
        is_local = host == "localhost" or host.startswith("127.")
        return argument if is_local else argument.replace(host, "HOST")
    if os.sep in argument:
        return "PATH"
    return shlex.quote(argument)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown CPU"
