"""How soon threads change places at the interpreter lock, while any session is open.

Owns: the interpreter's switch interval, from the first session's opening to the last one's
closing. Does not own: threads.

Invariants: what it was before is restored when the last one has closed, unless somebody
else has set it meanwhile; sessions of several loops and threads may overlap.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["quicken"]

SWITCH_S = 0.0001
"""The writer thread waits about this long for the interpreter lock at each statement; with
Python's own 5 ms a callback that computes holds up every commit."""

_lock = threading.Lock()
_open = 0
_before = 0.0


def quicken() -> Callable[[], None]:
    """A session opens; what is given back restores, and may be called more than once."""
    global _open, _before
    with _lock:
        if _open == 0:
            _before = sys.getswitchinterval()
            sys.setswitchinterval(min(SWITCH_S, _before))
        _open += 1
    left = iter((True,))

    def restore() -> None:
        global _open
        with _lock:
            if not next(left, False):
                return
            _open -= 1
            if _open == 0 and sys.getswitchinterval() <= SWITCH_S * 1.01:
                sys.setswitchinterval(_before)

    return restore
