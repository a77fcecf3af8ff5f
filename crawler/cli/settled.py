"""What is said of single pages: the first errors of a spider; `-v`: each page; `-vv`: its
items too.

Owns: the form of these lines, which errors are told. Does not own: when a page is settled
(`crawler.visits`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from crawler.cli.paragraphs import frames
from crawler.cli.table import brief
from crawler.cli.voice import folded, log_format, say, stderr_width
from crawler.codes import code_of
from crawler.wording import plural, printable, size
from storage import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage import Commit, ErrorRow, QueuedRequest

__all__ = ["MOST_KINDS", "Teller"]

MOST_KINDS = 3
"""Errors of spiders that are told at once: one of each line that raises."""
MOST_REMEMBERED = 1_000


class Teller:
    """To be called with each page and its commit; `verbosity` as `crawler run -v` counts it."""

    def __init__(self, verbosity: int) -> None:
        self._verbosity = verbosity
        self._kinds: set[tuple[str, str, str]] = set()
        self.details: set[str] = set()
        """Tracebacks that were told."""

    def __repr__(self) -> str:
        return f"<Teller {len(self._kinds)} kinds of errors>"

    def __call__(self, row: QueuedRequest, commit: Commit) -> None:
        """Say what there is to say of a page."""
        for error in commit.errors:
            if self._is_new(error):
                self._tell_error(row, error)
        if self._verbosity < 1:
            return
        facts = _facts(row, commit)
        say(_line(facts), event="page", **facts)
        for table, fields in _items(commit) if self._verbosity > 1 else ():
            text = json.dumps(fields, ensure_ascii=False, default=repr)
            say(printable(f"  {table} {text}"), event="item", table=table, item=fields)

    def stats(self) -> int:
        """Kinds of errors of spiders that came."""
        return len(self._kinds)

    def _is_new(self, error: ErrorRow) -> bool:
        """The first of its kind (code, class, line), and one of the first kinds."""
        code = code_of(error.code)
        if code is None or code.fault != "spider" or len(self._kinds) >= MOST_REMEMBERED:
            return False
        place = (error.detail or "").rstrip().rpartition('File "')[2]
        kind = error.code, error.message.partition(":")[0] if place else "", place
        is_new = kind not in self._kinds
        self._kinds.add(kind)
        return is_new and len(self._kinds) <= MOST_KINDS

    def _tell_error(self, row: QueuedRequest, error: ErrorRow) -> None:
        detail = error.detail or ""
        self.details.add(detail)
        text = printable(f"warning: {error.code} on {row.url}: {error.message}")
        if log_format() == "text":
            text = folded(text, stderr_width() or len(text))
            text = "\n".join([text, *map(printable, frames(detail))])
        say(text, event="page-error", level="warning", code=error.code, url=row.url, detail=detail)


def _facts(row: QueuedRequest, commit: Commit) -> dict[str, Any]:
    fetch = commit.fetches[-1] if commit.fetches else None
    if fetch is None:
        answer: int | str | None = commit.reason
    else:
        answer = fetch.error or fetch.status
    return {
        "url": row.url,
        "answer": answer or commit.state.name.lower(),
        "state": "retry" if commit.state is State.QUEUED else commit.state.name.lower(),
        "reason": commit.reason,
        "seconds": round(fetch.total_s, 4) if fetch else None,
        "bytes": fetch.bytes_received if fetch else None,
        "items": len(commit.items),
        "links": len(commit.links),
        "errors": [error.message for error in commit.errors if error.detail],
    }


def _line(facts: dict[str, Any]) -> str:
    took = "" if facts["seconds"] is None else brief(facts["seconds"])
    weight = "" if facts["bytes"] is None else size(facts["bytes"])
    told = "again later" if facts["state"] == "retry" else plural(facts["items"], "item")
    links = plural(facts["links"], "link")
    why = f"  ({facts['errors'][0]})" if facts["errors"] else ""
    head = f"{facts['answer']!s:<10} {took:>6} {weight:>10} {told:>11} {links:>10}"
    return printable(f"{head}  {facts['url']}{why}")


def _items(commit: Commit) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in commit.items:
        yield item.table, dict(zip(item.columns, item.values, strict=True))
