"""`crawler run -v`: a line for each page that was settled; `-vv`: its items too.

Owns: the form of these lines. Does not own: when a page is settled (`crawler.visits`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from crawler.cli.table import brief
from crawler.cli.voice import say
from crawler.wording import plural, printable, size
from storage import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage import Commit, QueuedRequest

__all__ = ["teller"]


def teller(verbosity: int) -> Callable[[QueuedRequest, Commit], None] | None:
    """What is to be called with each page's commit; None: nothing is told."""
    if verbosity < 1:
        return None

    def tell(row: QueuedRequest, commit: Commit) -> None:
        facts = _facts(row, commit)
        say(_line(facts), event="page", **facts)
        for table, fields in _items(commit) if verbosity > 1 else ():
            text = json.dumps(fields, ensure_ascii=False, default=repr)
            say(printable(f"  {table} {text}"), event="item", table=table, item=fields)

    return tell


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
