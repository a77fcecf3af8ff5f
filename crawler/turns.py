"""How soon threads change places at the interpreter lock, while any session is open.

Owns: the interpreter's switch interval, from the first session's opening to the last one's
closing. Does not own: threads.

Invariants: what it was before is restored when the last one has closed, unless somebody
else has set it meanwhile; sessions of several loops and threads may overlap.
"""

from __future__ import annotations

import sys
import threading
from weakref import WeakSet

__all__ = ["hasten", "restore"]

SWITCH_S = 0.0001
"""The writer thread waits about this long for the interpreter lock at each statement; with
Python's own 5 ms a callback that computes holds up every commit."""

_lock = threading.Lock()
_open: WeakSet[object] = WeakSet()
_before = 0.0


def hasten(session: object) -> None:
    """A session opens."""
    global _before
    with _lock:
        if not _open:
            _before = sys.getswitchinterval()
            sys.setswitchinterval(min(SWITCH_S, _before))
        _open.add(session)


def restore(session: object) -> None:
    """A session has closed. Idempotent."""
    with _lock:
        if session in _open:
            _open.remove(session)
            if not _open and sys.getswitchinterval() <= SWITCH_S * 1.01:
                sys.setswitchinterval(_before)
