"""What went wrong in a run, as a person looks at it: by cause, then case by case.

Owns: how errors are grouped and folded, and which cases are listed. Does not own: counting
(the views of storage), the words of a code (`codes`), drawing (`crawler.cli.errors`).

Invariants: groups come from counters, so they take no time however large the run is;
equal messages with equal frames are one fold.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crawler.errors import advice, code_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from crawler.summary import Source

__all__ = ["Case", "Fold", "Group", "cases", "fold", "group", "groups"]

COLUMNS = "code, domain, count, last_at, message, url, detail"


@dataclass(slots=True, kw_only=True)
class Group:
    """The errors of one code, over all domains."""

    code: str
    meaning: str
    """Empty: the code is the spider's own."""
    hint: str
    count: int = 0
    domains: list[tuple[str, int]] = field(default_factory=list)
    """Most frequent first; an empty name: of no domain, as of a start URL that is none."""
    message: str = ""
    url: str | None = None
    """Of the latest case; None: it was about no request."""
    detail: str | None = None
    """The user's frames of the latest case; None: it has none."""
    gone: int = 0
    """URLs that failed with the domains that could not be reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One error."""

    code: str
    domain: str | None
    at: float
    message: str
    url: str | None
    state: str | None
    """Where its request stands now; None: it is about none."""
    detail: str | None


@dataclass(slots=True, kw_only=True)
class Fold:
    """Cases that say the same."""

    code: str
    message: str
    detail: str | None
    count: int = 0
    urls: list[str] = field(default_factory=list)


def groups(source: Source, run: str, **only: str | None) -> list[dict[str, Any]]:
    """Errors by code and domain, most frequent first; `only` code and domain, where given."""
    where, values = _where(only)
    columns, rows = source.query(
        f"SELECT {COLUMNS} FROM v_errors WHERE run = ?{where} ORDER BY count DESC, code, domain",
        (run, *values),
    )
    return [dict(zip(columns, row, strict=True)) for row in rows]


def group(rows: Iterable[Mapping[str, Any]], gone: Mapping[str, int], spider: str) -> list[Group]:
    """These rows by code alone, most frequent first. `gone`: failed URLs by domain."""
    found: dict[str, Group] = {}
    latest: Counter[str] = Counter()
    for row in rows:
        code = row["code"]
        if code not in found:
            known = code_of(code)
            found[code] = Group(code=code, meaning=known.meaning if known else "", hint="")
        each, domain = found[code], row["domain"] or ""
        each.count += row["count"]
        each.domains.append((domain, row["count"]))
        if code == "domain-unreachable":
            each.gone += gone.get(domain, 0)
        if (row["last_at"] or 0) >= latest[code]:
            latest[code] = row["last_at"] or 0
            each.message, each.url, each.detail = row["message"] or "", row["url"], row["detail"]
            each.hint = advice(code, url=row["url"], host=domain or None, spider=spider)
    return sorted(found.values(), key=lambda each: (-each.count, each.code))


def cases(source: Source, run: str, **only: str | None) -> Iterator[Case]:
    """The kept errors one by one, latest first; of a domain that was given up, its URLs."""
    where, values = _where(only)
    _, rows = source.query(
        "SELECT code, domain, at, coalesce(message, ''), url, state, detail, request"
        f" FROM v_problems WHERE run = ?{where} ORDER BY id DESC",
        (run, *values),
    )
    names = ("code", "domain", "at", "message", "url", "state", "detail")
    for *row, request in rows:
        case = dict(zip(names, row, strict=True))
        buried = _buried(source, run, case) if request is None and case["domain"] else []
        for url in buried:
            yield Case(**{**case, "url": url, "state": "failed"})
        if not buried:
            yield Case(**case)


def fold(found: Iterable[Case], most: int) -> list[Fold]:
    """Cases that say the same, most frequent first; each with at most `most` URLs."""
    folds: dict[tuple[str, str, str | None], Fold] = {}
    for case in found:
        key = (case.code, _without_url(case), case.detail)
        each = folds.setdefault(key, Fold(code=case.code, message=case.message, detail=case.detail))
        each.count += 1
        if case.url is not None and len(each.urls) < most:
            each.urls.append(case.url)
    return sorted(folds.values(), key=lambda each: -each.count)


def _without_url(case: Case) -> str:
    return case.message.replace(case.url, "…") if case.url else case.message


def _buried(source: Source, run: str, case: Mapping[str, Any]) -> list[str]:
    """The requests of a domain that failed together."""
    _, rows = source.query(
        "SELECT url FROM requests WHERE run = ? AND domain = ? AND state = 'failed'"
        " AND reason = ? ORDER BY id",
        (run, case["domain"], case["code"]),
    )
    return [url for (url,) in rows]


def _where(only: Mapping[str, str | None]) -> tuple[str, list[str]]:
    given = {name: value for name, value in only.items() if value is not None}
    return "".join(f" AND {name} = ?" for name in given), list(given.values())
