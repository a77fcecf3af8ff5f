"""Importing httpx without its command line, which is a third of its cost.

Owns: what is left out, and that nobody misses it. Does not own: using httpx (`transport`).

Invariants: httpx that was imported before stays as it is; `httpx.main`, the command's
entry, imports what was left out when it is called; everything else is as without us.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["import_httpx"]

COMMAND_LINE = "httpx._main"
"""Brings rich and pygments, where they are installed; httpx does without it where not."""


def import_httpx() -> ModuleType:
    """The package, at two thirds of the time where it was not imported yet."""
    if "httpx" in sys.modules or COMMAND_LINE in sys.modules:
        return import_module("httpx")
    sys.modules[COMMAND_LINE] = None  # type: ignore[assignment]  # an ImportError for who asks
    try:
        package = import_module("httpx")
    finally:
        del sys.modules[COMMAND_LINE]
    vars(package)["main"] = _main
    return package


def _main(*given: Any, **named: Any) -> Any:
    """The command line of httpx."""
    return import_module(COMMAND_LINE).main(*given, **named)
