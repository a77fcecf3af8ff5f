"""What this process takes of its machine: files, memory, processor time.

Owns: how the system is asked. Does not own: when (`gauges`, once a second).

Invariant: what the system does not say is None, never a guess.
"""

from __future__ import annotations

import os
import resource
from collections import deque

from crawler.pool.budget import MOST_DESCRIPTORS

__all__ = ["Machine"]

OVER_S = 10.0
"""Seconds over which processor time is told."""


class Machine:
    """The process's figures as of the last `note`."""

    def __init__(self, now: float) -> None:
        self.descriptors: int | None = None
        self.memory: int | None = None
        self._samples: deque[tuple[float, float]] = deque([(now, _cpu_s())], maxlen=64)

    def __repr__(self) -> str:
        return f"<Machine {self.descriptors} descriptors, {self.memory} bytes, cpu {self.cpu:.2f}>"

    def note(self, now: float) -> None:
        """Ask the system."""
        self.descriptors = _descriptors()
        self.memory = _resident()
        while len(self._samples) > 1 and self._samples[1][0] <= now - OVER_S:
            self._samples.popleft()
        self._samples.append((now, _cpu_s()))

    @property
    def cpu(self) -> float:
        """Processor seconds per second, over the last 10 s."""
        (begin, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - begin) if end > begin else 0.0

    @property
    def descriptors_limit(self) -> int:
        """The process's soft limit; where there is none, the most that is ever asked for."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system


def _descriptors() -> int | None:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # without the one that looks
        except OSError:
            continue
    return None


def _resident() -> int | None:
    """Bytes in memory now; macOS has only the peak to tell, which is another thing."""
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read(128).split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
