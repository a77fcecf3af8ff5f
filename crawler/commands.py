"""Commands as they can be typed: the next step that reports and hints name. Pure.

Owns: their text, quoted for a shell. Does not own: what they do (`crawler.cli`), which of
them fits (`diagnosis`, `verdict`).

Invariants: a command stands for itself, without a placeholder; it works in the folder in
which the one before it was typed.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GOES_ON", "command", "not_kept", "place_of", "run_again", "target_of"]

GOES_ON = ("waiting", "interrupted")
"""States of a run that `crawler run` goes on with, without `--resume`."""


def command(*words: str) -> str:
    """`crawler` and its words, quoted where a shell needs it; empty ones are left out."""
    return shlex.join(["crawler", *[word for word in words if word]])


def place_of(run: str, spider: str, database: str) -> tuple[str, ...]:
    """What names a run in a database: its id, and the file where that is not the default."""
    return (run, *_file(spider, database))


def run_again(row: Mapping[str, Any], database: str, *, resume: bool = False) -> str:
    """The `crawler run` that goes on with a run, by its row of `runs`.

    It is what was typed, without -s (`not_kept`). `resume`: also where the spider has
    changed, as it will have before what failed is tried again.
    """
    words = _typed(row)[0] or _made_up(row)
    resume = resume or row["state"] == "finished" or row["ended_by"] == "requeue"
    return command("run", *words, *_file(row["spider"], database), "--resume" if resume else "")


def target_of(row: Mapping[str, Any]) -> str:
    """The spider as commands find it: the file that it was run from, or its name."""
    return (_typed(row)[0] or [row["spider"]])[0]


def not_kept(row: Mapping[str, Any]) -> str:
    """What `run_again` lacks, in a sentence: -s may hold a secret. Empty: it lacks nothing."""
    keys = ", ".join(dict.fromkeys(_typed(row)[1]))
    return f"Values of -s are not kept: give {keys} again." if keys else ""


def _typed(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The words after `crawler run`, and what -s set; none of a run begun in code, or in an
    older file."""
    words: list[str] = msgspec.json.decode(row.get("command") or "[]")
    at = words.index("-s") if "-s" in words else len(words)
    return words[:at], words[at + 1 :: 2]


def _made_up(row: Mapping[str, Any]) -> list[str]:
    """The same from the spider's name and the JSON that the run is found by."""
    given: dict[str, Any] = msgspec.json.decode(row["arguments"])
    starts, urls = given.pop("start_urls", ()), given.pop("urls", None)
    words = [row["spider"], *starts]
    for name, value in given.items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        words += ["-a", f"{name}={text}"]
    return words + (["--urls", str(urls)] if urls is not None else [])


def _file(spider: str, database: str) -> list[str]:
    return ["--db", database] if database and database != f"{spider}.db" else []
