"""What every loop takes and tells.

Owns: the arguments, the event loop, the last line. Does not own: crawling.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["arguments", "run_loop", "tell"]

BEGUN = time.perf_counter()


def arguments(*kinds: str) -> argparse.Namespace:
    """`url`, `pages` (0: all) and, where there are several, `kind`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("pages", type=int, nargs="?", default=0, help="0: all")
    if kinds:
        parser.add_argument("kind", choices=kinds, nargs="?", default=kinds[0])
    return parser.parse_args()


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where it is installed, as ours does."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    pages: int = uvloop.run(work)
    return pages


def tell(pages: int) -> None:
    """Print the last line: what this process has used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    figures = {
        "pages": pages,
        "cpu_s": round(used.ru_utime + used.ru_stime, 3),
        "wall_s": round(time.perf_counter() - BEGUN, 3),
        "rss_mb": round(used.ru_maxrss * unit / 1024**2, 1),
    }
    print(json.dumps(figures))
