"""A process from outside: its CPU, its memory, its time.

Owns: running a command and what the system counted for it. Does not own: what a command
does, or what the figures mean.

Invariants: everything from exec to exit counts, its own children included; nothing of the
measuring process does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ROOT", "Usage", "python", "run"]

ROOT = Path(__file__).resolve().parent.parent
"""The project's folder."""
LIMIT_S = 900.0
"""Seconds after which a command is killed."""
WATCH_S = 0.05
"""Seconds between two looks at the threads of a watched process."""
RSS_UNIT = 1024 if sys.platform != "darwin" else 1
"""Bytes in one of ru_maxrss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one run of a command took."""

    cpu_s: float
    """User and system time, children included."""
    wall_s: float
    rss_mb: float
    """Most memory resident at once, in MiB."""
    threads_s: float | None = None
    """CPU seconds of all threads but the main one; None: nobody looked."""
    output: str = ""
    """What it wrote on stdout."""


def python(*arguments: str) -> list[str]:
    """A command for this interpreter."""
    return [sys.executable, *arguments]


def run(command: Sequence[str], *, folder: Path | None = None, watch: bool = False) -> Usage:
    """Run a command to its end, in `folder` (None: the current one).

    `watch` looks at its threads while it runs (Linux only). SystemExit when it fails.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        watcher = _Watcher(process.pid) if watch else None
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        try:
            _, status, counted = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            timer.cancel()
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            err.seek(0)
            told = err.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"error: {' '.join(command)}: exit {process.returncode}\n{told}")
        out.seek(0)
        return Usage(
            cpu_s=counted.ru_utime + counted.ru_stime,
            wall_s=wall,
            rss_mb=counted.ru_maxrss * RSS_UNIT / 1024**2,
            threads_s=watcher.result() if watcher else None,
            output=out.read().decode(errors="replace"),
        )


class _Watcher(threading.Thread):
    """Reads the CPU time of another process's threads while it lives."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._seen: dict[str, int] = {}
        self.start()

    def run(self) -> None:
        tasks = Path(f"/proc/{self._pid}/task")
        while True:
            try:
                for task in tasks.iterdir():
                    self._seen[task.name] = int(task.joinpath("schedstat").read_text().split()[0])
            except ProcessLookupError:
                pass
            except (OSError, IndexError):
                if not tasks.exists():
                    return
            time.sleep(WATCH_S)

    def result(self) -> float | None:
        """CPU seconds of all threads but the main one; None: the system does not tell."""
        self.join()
        if not self._seen:
            return None
        return sum(ns for task, ns in self._seen.items() if task != str(self._pid)) / 1e9
