"""The life of one URL of a run: where it was found, what was tried, what came of it.

Owns: which facts belong to it, and how they are found without reading the whole run.
Does not own: what they mean in words (`verdict`), drawing (`crawler.cli.why`).

Invariants: nothing is written and nothing is fetched; a URL is looked for as the crawl
looks for it, by its fingerprint; a running crawl may be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import msgspec

from crawler.errors import FetchError, UsageError
from crawler.request import via_of
from crawler.rows import Record, Source, has_view, records
from crawler.urls import Target, canonicalise, site_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Life", "Story", "Trace", "look_up"]

MOST_PARENTS = 10
MOST_VARIANTS = 20
MOST_NEAR = 5
SCANNED = 200_000
"""Requests of a domain up to which its URLs are looked through."""


class Trace(Source, Protocol):
    """What a story is read from: storage's read side."""

    def find_request(self, run: str, domains: Iterable[str], fingerprint: bytes) -> int | None:
        """Id of a request by its fingerprint."""

    def find_urls(self, run: str, domains: Iterable[str], url: str, limit: int) -> list[int]:
        """Ids of requests whose URL goes on from `url`."""

    def count_ahead(self, request: int) -> int:
        """Queued requests that go first."""

    def find_children(self, request: int, moments: Sequence[float]) -> list[int]:
        """Ids of what a page led to."""

    def tables(self) -> list[str]:
        """Names of the item tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One request: a URL may have several, of other methods, bodies or keys."""

    request: Record
    """Its row of `requests`, `payload` decoded."""
    domain: Record
    """The row of `domains` it belongs to."""
    ahead: int = 0
    """Requests of its domain that go first; 0 also where it does not wait for its turn."""
    parents: tuple[Record, ...] = ()
    """Pages it was found by way of, the nearest first: id, url, depth."""
    redirected_from: tuple[str, ...] = ()
    """The chain that led here, oldest first."""
    redirected_to: str | None = None
    """None: it does not redirect, or to a URL that the run had already."""
    attempts: tuple[Record, ...] = ()
    """Rows of `fetches`, oldest first."""
    errors: tuple[Record, ...] = ()
    """Rows of `v_problems`, those of its domain as a whole included."""
    items: tuple[tuple[str, Record], ...] = ()
    """Table and row, without private columns."""
    links: int = 0
    """Requests that were found on its page first."""
    robots: Record | None = None
    """The latest fetch of its origin's robots.txt; None: it plays no part, or was not fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What a run knows of one URL."""

    asked: str
    url: str
    """Canonical."""
    run: Record
    """The row of `runs`."""
    lives: tuple[Life, ...] = ()
    """Empty: the run has not seen it."""
    is_partial: bool = False
    """The domain is too large to look for other methods and keys, or for the like."""
    near: tuple[Record, ...] = ()
    """URLs that were seen and look like it: url, state, reason."""


def look_up(source: Trace, run: str, asked: str) -> Story:
    """All that a run knows of a URL. The run must exist. Raises UsageError for what is none."""
    try:
        target = canonicalise(asked if "://" in asked else f"http://{asked}")
    except FetchError as error:
        hint = "an absolute http:// or https:// URL, as `requests` has it"
        raise UsageError(f"no run has `{asked}`: {error.args[0]}", hint=hint) from error
    names = list(dict.fromkeys((target.domain, site_of(target.domain))))
    is_large = _size(source, run, names) > SCANNED
    found = source.find_request(run, names, target.fingerprint)
    ids = [] if is_large else _same(source, run, names, target.url)
    if found is not None and found not in ids:
        ids.insert(0, found)
    return Story(
        asked=asked,
        url=target.url,
        run=records(source, "SELECT * FROM runs WHERE id = ?", run)[0],
        lives=tuple(_life(source, run, number) for number in ids),
        is_partial=is_large,
        near=() if ids else _near(source, run, names, target, is_large=is_large),
    )


# -- which requests -----------------------------------------------------------------------


def _same(source: Trace, run: str, names: Sequence[str], url: str) -> list[int]:
    """Every request for exactly this URL."""
    ids = source.find_urls(run, names, url, MOST_VARIANTS)
    marks = ", ".join("?" * len(ids))
    sql = f"SELECT id FROM requests WHERE id IN ({marks}) AND url = ? ORDER BY id"
    return [number for (number,) in source.query(sql, (*ids, url))[1]]


def _size(source: Trace, run: str, names: Sequence[str]) -> int:
    marks = ", ".join("?" * len(names))
    sql = (
        "SELECT coalesce(sum(queued + done + failed + dropped), 0) FROM domains"
        f" WHERE run = ? AND domain IN ({marks})"
    )
    return int(source.query(sql, (run, *names))[1][0][0])


def _near(
    source: Trace, run: str, names: Sequence[str], target: Target, *, is_large: bool
) -> tuple[Record, ...]:
    """What was seen and differs by scheme, `www.`, slash or query only; else below its path."""
    ids = []
    for url in _alike(target.url):
        try:
            other = canonicalise(url)
        except FetchError:  # www. before an address
            continue
        found = source.find_request(run, {other.domain, site_of(other.domain)}, other.fingerprint)
        ids += [found] if found is not None else []
    path = target.url.partition("?")[0]
    for start in dict.fromkeys((path, path.rpartition("/")[0] + "/")):
        if len(ids) < MOST_NEAR and not is_large:
            ids += source.find_urls(run, names, start, MOST_NEAR)
    kept = list(dict.fromkeys(ids))[:MOST_NEAR]
    marks = ", ".join("?" * len(kept))
    rows = records(
        source, f"SELECT id, url, state, reason FROM requests WHERE id IN ({marks})", *kept
    )
    by_id = {row.pop("id"): row for row in rows}
    return tuple(by_id[number] for number in kept)


def _alike(url: str) -> list[str]:
    """The same URL with and without slash, `www.`, query, and with the other scheme."""
    parts = urlsplit(url)
    slashed = parts.path[:-1] if parts.path.endswith("/") else f"{parts.path}/"
    bare = parts.netloc.removeprefix("www.")
    hosts = [parts.netloc, bare if bare != parts.netloc else f"www.{bare}"]
    schemes = [parts.scheme, "https" if parts.scheme == "http" else "http"]
    return [
        parts._replace(scheme=scheme, netloc=host, path=path or "/", query=query).geturl()
        for query in dict.fromkeys((parts.query, ""))
        for host in hosts
        for scheme in schemes
        for path in (parts.path, slashed)
    ][1:]


def _robots(source: Trace, run: str, origin: str) -> Record | None:
    """The latest answer for an origin's robots.txt."""
    rows = records(
        source,
        "SELECT url, status, error, started_at FROM fetches WHERE request IS NULL AND url = ?"
        " AND run = ? ORDER BY id DESC LIMIT 1",
        f"{origin}/robots.txt",
        run,
    )
    return rows[0] if rows else None


# -- one of them --------------------------------------------------------------------------


def _life(source: Trace, run: str, number: int) -> Life:
    (request,) = records(source, "SELECT * FROM requests WHERE id = ?", number)
    via = via_of(request["payload"])
    request["payload"] = msgspec.json.decode(request["payload"]) if request["payload"] else {}
    (domain,) = records(
        source,
        "SELECT * FROM domains WHERE run = ? AND domain = ?",
        run,
        request["domain"],
    ) or [{}]
    attempts = records(source, "SELECT * FROM fetches WHERE request = ? ORDER BY id", number)
    children = _children(source, request, attempts)
    links = sum(child["redirect_of"] != number for child in children)
    targets = [child["url"] for child in children if child["redirect_of"] == number]
    waits = request["state"] == "queued" and request["not_before"] is None
    about_robots = request["reason"] == "robots"
    origin = canonicalise(request["url"]).origin
    return Life(
        request=request,
        domain=domain,
        ahead=source.count_ahead(number) if waits else 0,
        parents=tuple(_parents(source, request)),
        redirected_from=via,
        redirected_to=targets[-1] if targets else None,
        attempts=tuple(attempts),
        errors=_errors(source, run, request),
        items=tuple(_items(source, run, request)),
        links=links,
        robots=_robots(source, run, origin) if about_robots else None,
    )


def _parents(source: Trace, request: Record) -> list[Record]:
    """The pages that led to a request, the nearest first."""
    found: list[Record] = []
    above = request["parent"]
    while above is not None and len(found) < MOST_PARENTS:
        rows = records(source, "SELECT id, url, depth, parent FROM requests WHERE id = ?", above)
        above = rows[0].pop("parent") if rows else None
        found += rows
    return found


def _children(source: Trace, request: Record, attempts: Iterable[Record]) -> list[Record]:
    moments = [
        attempt["started_at"] + attempt["total_s"]
        for attempt in attempts
        if attempt["decision"] in ("deliver", "redirect")
    ]
    if request["finished_at"] is not None and moments:
        moments[-1] = request["finished_at"]
    ids = source.find_children(request["id"], moments)
    return records(
        source,
        "SELECT url, redirect_of FROM requests WHERE id IN (SELECT value FROM json_each(?))"
        " ORDER BY id",
        msgspec.json.encode(ids).decode(),
    )


def _errors(source: Trace, run: str, request: Record) -> tuple[Record, ...]:
    """What was said of it, and of its domain where that failed as a whole."""
    if not has_view(source, "v_problems"):
        return ()
    return tuple(
        records(
            source,
            "SELECT at, code, message, detail FROM v_problems WHERE run = ? AND domain = ?"
            " AND (request = ? OR (request IS NULL AND code = ?)) ORDER BY id",
            run,
            request["domain"],
            request["id"],
            request["reason"] if request["state"] == "failed" else None,
        )
    )


def _items(source: Trace, run: str, request: Record) -> list[tuple[str, Record]]:
    found = []
    for table in source.tables():
        quoted = '"' + table.replace('"', '""') + '"'
        keyed = source.query("SELECT key FROM item_table WHERE name = ?", (table,))[1][0][0]
        by = "+_run" if keyed is not None else "_run"  # no index helps: the rows as they lie
        rows = records(
            source,
            f"SELECT * FROM {quoted} WHERE {by} = ? AND _request = ? ORDER BY _ordinal",
            run,
            request["id"],
        )
        shown = ({k: v for k, v in row.items() if not k.startswith("_")} for row in rows)
        found += [(table, row) for row in shown]
    return found
