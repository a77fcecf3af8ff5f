"""What went wrong in a run, as a person looks at it: by cause, then case by case.

Owns: how errors are grouped and folded, and which cases are listed. Does not own: counting
(the views of storage), the words of a code (`codes`), drawing (`crawler.cli.errors`).

Invariants: causes come from counters, however large the run is; equal messages with equal
frames are one fold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crawler.codes import code_of
from crawler.rows import records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from crawler.rows import Record, Source

__all__ = ["Case", "Failure", "Fold", "cases", "causes", "fold", "groups", "of_callbacks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Errors of one code, over all domains."""

    code: str
    count: int
    domain: str
    """Of the latest one; empty: of none, as of a start URL that is none."""
    message: str
    """Of the latest one; empty: none is kept."""
    url: str = ""
    """Of the latest one; empty: it was about no request."""
    detail: str = ""
    """The user's frames of the latest one's traceback; empty: it has none."""
    domains: int = 1
    """How many have it."""

    @property
    def is_of_callback(self) -> bool:
        """It came from the spider's own code, or from what that gave."""
        code = code_of(self.code)
        is_ours = code is not None and code.fault == "spider"
        return is_ours or self.code in ("bad-url", "internal")

    @property
    def cause(self) -> str:
        """What lies below a code that only says that a domain was given up; else empty."""
        return self.message.partition(":")[0] if self.code == "domain-unreachable" else ""


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

    message: str
    detail: str | None
    count: int = 0
    urls: list[str] = field(default_factory=list)


def causes(source: Source, run: str, **only: str | None) -> tuple[Failure, ...]:
    """Errors by code, the most frequent first; `only` code and domain, where given."""
    where, values = _where(run, only)
    rows = records(
        source,
        # Beside one max() the other columns are those of its row.
        "SELECT code, sum(count) AS count, count(*) AS domains, max(last_at) AS at,"
        " coalesce(domain, '') AS domain, coalesce(message, '') AS message,"
        " coalesce(url, '') AS url, coalesce(detail, '') AS detail"
        f" FROM v_errors{where} GROUP BY code ORDER BY 2 DESC, code",
        *values,
    )
    return tuple(Failure(**{k: v for k, v in row.items() if k != "at"}) for row in rows)


def of_callbacks(failed: int, found: Iterable[Failure]) -> int:
    """How many of the failed requests failed in the spider's own code.

    A request that was given up has one error, which is not the spider's, and those of a
    domain that was given up one together; a page whose callback failed has one or several
    of its own. Never too few; too many only where pages with several errors and a domain
    that was given up come together.
    """
    ours = sum(each.count for each in found if each.is_of_callback)
    others = sum(each.count for each in found if not each.is_of_callback)
    return min(ours, max(0, failed - others))


def groups(source: Source, run: str, **only: str | None) -> list[Record]:
    """Errors by code and domain, the most frequent first."""
    where, values = _where(run, only)
    return records(
        source,
        "SELECT code, domain, count, last_at, message, url, detail"
        f" FROM v_errors{where} ORDER BY count DESC, code, domain",
        *values,
    )


def cases(source: Source, run: str, **only: str | None) -> Iterator[Case]:
    """The kept errors one by one, latest first; of a domain that was given up, its URLs."""
    where, values = _where(run, only)
    for row in records(
        source,
        "SELECT code, domain, at, coalesce(message, '') AS message, url, state, detail, request"
        f" FROM v_problems{where} ORDER BY id DESC",
        *values,
    ):
        request = row.pop("request")
        buried = _buried(source, run, row) if request is None and row["domain"] else []
        for url in buried:
            yield Case(**{**row, "url": url, "state": "failed"})
        if not buried:
            yield Case(**row)


def fold(found: Iterable[Case], most: int) -> dict[str, list[Fold]]:
    """By code the cases that say the same, the most frequent first, with `most` URLs each."""
    folds: dict[tuple[str, str, str | None], Fold] = {}
    for case in found:
        said = case.message.replace(case.url, "…") if case.url else case.message
        each = folds.setdefault(
            (case.code, said, case.detail), Fold(message=case.message, detail=case.detail)
        )
        each.count += 1
        if case.url is not None and len(each.urls) < most:
            each.urls.append(case.url)
    by_code: dict[str, list[Fold]] = {}
    for (code, _, _), each in sorted(folds.items(), key=lambda one: -one[1].count):
        by_code.setdefault(code, []).append(each)
    return by_code


def _buried(source: Source, run: str, case: Mapping[str, object]) -> list[str]:
    """The requests of a domain that failed together."""
    _, rows = source.query(
        "SELECT url FROM requests WHERE run = ? AND domain = ? AND state = 'failed'"
        " AND reason = ? ORDER BY id",
        (run, case["domain"], case["code"]),
    )
    return [url for (url,) in rows]


def _where(run: str, only: Mapping[str, str | None]) -> tuple[str, list[str]]:
    given = {"run": run, **{name: value for name, value in only.items() if value is not None}}
    return " WHERE " + " AND ".join(f"{name} = ?" for name in given), list(given.values())
