"""Commands as they can be typed: the next step that reports and hints name. Pure.

Owns: their text, quoted for a shell. Does not own: what they do (`crawler.cli`), which of
them fits (`diagnosis`).

Invariants: a command stands for itself, without a placeholder; it works in the folder in
which the one before it was typed.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["command", "place_of", "run_again"]


def command(*words: str) -> str:
    """`crawler` and its words, quoted where a shell needs it; empty ones are left out."""
    return shlex.join(["crawler", *[word for word in words if word]])


def place_of(run: str, spider: str, database: str) -> Sequence[str]:
    """What names a run in a database: its id, and the file where that is not the default."""
    return (run, *_file(spider, database))


def run_again(spider: str, arguments: str, database: str, *, resume: bool = False) -> str:
    """The `crawler run` that goes on with a run; `arguments` is the JSON it is found by.

    Settings that were given as flags are not repeated. `resume`: whatever has changed.
    """
    given: dict[str, Any] = msgspec.json.decode(arguments or "{}")
    starts = given.pop("start_urls", ())
    urls = given.pop("urls", None)
    words = ["run", spider, *starts]
    for name, value in given.items():
        words += ["-a", f"{name}={_text(value)}"]
    words += ["--urls", str(urls)] if urls is not None else []
    return command(*words, *_file(spider, database), "--resume" if resume else "")


def _file(spider: str, database: str) -> list[str]:
    return ["--db", database] if database and database != f"{spider}.db" else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
