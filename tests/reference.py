"""docs/reference: pages written from the code, so that they cannot disagree with it.

Owns: how each page is made, its words that stand nowhere in the code (what an argument is,
exit codes, examples, sample queries). Does not own: the facts, which are read from
`crawler.settings`, `crawler.cli`, `crawler.errors`, `storage.schema`, `storage.meanings`.

`python -m tests.reference` writes every page anew; tests/test_reference.py holds them.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from crawler.codes import CODES, code_of
from crawler.errors import FetchError
from crawler.retry import GiveUp, Requeue, Retry
from crawler.settings import vocabulary
from storage import meanings, schema
from tests import reference_commands
from tests.markdown import table

if TYPE_CHECKING:
    from crawler.settings import Field

__all__ = ["FOLDER", "PAGES", "views", "written"]

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
HOW = "python -m tests.reference"
WRITTEN = f"Written by `{HOW}` from {{}}; a test holds them equal.\n\n"


# -- settings ------------------------------------------------------------------------------------

SETTINGS_HEAD = """# Settings

{written}Where a setting comes from, later ones over earlier ones, field by field: the defaults below; `[tool.crawler]` in pyproject.toml; crawler.toml; the spider's `settings = Settings(...)`; the environment (`CRAWLER_DOMAIN_DELAY` is `domain.delay`); flags (`-s domain.delay=1`). `crawler config` shows what is set and where, `crawler config --list` everything. An unknown name or an impossible value is an error with the nearest right name, before any request.

The `domain.*` settings can be given for some domains by pattern, in each of these places but the environment: `-s 'domains."*.example.com".delay=2'`. Of two patterns that fit, the longer wins, field by field. `verify = false` can be given for named domains only: not as `domain.verify`, and not for a pattern that every domain fits.

`resolve` names hosts: `-s resolve.shop.test=127.0.0.2`, in a file `resolve = {{"shop.test" = "127.0.0.2"}}`, in code `Settings(resolve={{"shop.test": "127.0.0.2"}})`. The name in the request, in the certificate and in the rows stays the host's.

Durations are seconds (`90`) or `500ms`, `1.5s`, `10m`, `2h`, `1h30m`, `7d`; sizes are bytes (`65536`) or `64KiB`, `10MB`.

"""  # noqa: E501 - one paragraph a line, as in the documents


def settings() -> str:
    """docs/reference/settings.md."""
    rows = [(f"`{f.key}`", f"`{told(f)}`", f.doc, f.expected) for f in vocabulary()]
    head = SETTINGS_HEAD.format(written=WRITTEN.format("`crawler.settings.vocabulary`"))
    return head + table(("setting", "default", "what it is", "value"), rows)


def told(field: Field) -> str:
    """A default as one would write it."""
    value = field.default
    if value == ():
        return "none"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and field.expected.startswith("bytes"):
        for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value % size == 0:
                return f"{value // size}{unit}"
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- schema --------------------------------------------------------------------------------------

SCHEMA_HEAD = """# The database

{written}A crawl keeps everything in one SQLite file, by default `<spider>.db`. Public are the views below and the item tables; other tables may change between versions. `crawler sql "select …"` asks, read-only, also while a crawl writes; `crawler sql --schema` lists the names of a file; so does any program that opens SQLite files.

Instants are seconds since 1970 (`datetime(started_at, 'unixepoch')` is UTC), durations are seconds, sizes are bytes. Dropped requests and errors are kept as rows up to 100,000 of each in a run and counted beyond. All views but `requests`, `fetches` and `v_problems` read counters, so they answer at once however long the crawl was.

"""  # noqa: E501

ITEMS = """## Item tables

One table per class of items, named after it in snake_case (or `table=`), with a column per field. Mappings go to the spider's `table`, `items` unless it says otherwise. With a key a row is unique per run and key, and the later item wins; without one every item is a row. `NAME_latest` is a view of the same columns: per key the row of the newest run that has it; without a key the rows of the newest run that has any.

"""  # noqa: E501

SAMPLES = {
    "runs": "select id, state, ended_by, datetime(started_at, 'unixepoch') as began from runs",
    "requests": "select state, reason, count(*) as urls from requests group by 1, 2 order by 3",
    "fetches": "select url, status, error, ttfb_s from fetches order by total_s desc limit 5",
    "domains": "select domain, state, queued, delay, concurrency from domains",
    "v_runs": "select id, pages, items, failed, seconds, bytes_received from v_runs",
    "v_domains": "select domain, s2xx, s3xx, s4xx, s5xx, mean_ttfb_s from v_domains",
    "v_errors": "select code, domain, count, message, url from v_errors order by count desc",
    "v_problems": "select time(at, 'unixepoch') as at, code, url, message from v_problems limit 5",
    "v_drops": "select reason, sum(count) as urls from v_drops group by reason",
    "v_queue": "select domain, queued, waiting, next_at from v_queue order by queued desc",
    "v_pools": "select domain, requests, connections, reuse, mean_connect_s from v_pools",
    "v_slowest": "select domain, mean_ttfb_s, requests from v_slowest limit 10",
    "v_statuses": "select status, sum(count) as answers from v_statuses group by 1 order by 1",
    "v_latency": "select below_ms, sum(count) as answers from v_latency group by 1 order by 1",
    "v_phases": "select run, wait_s, connect_s, ttfb_s, body_s from v_phases",
    "v_throughput": "select time(minute_at, 'unixepoch') as minute, pages from v_throughput",
    "book": "select title, price from book where _run = 'shop-1' order by price limit 3",
    "book_latest": "select count(*) as books, max(price) from book_latest",
}
"""Name to a query that a reader may begin with; two of them are of item tables."""


def views() -> dict[str, list[str]]:
    """The public views of an empty database, with their columns."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        schema.apply(made, ":memory:")
        return {
            view.name: [name for _, name, *_ in made.execute(f"PRAGMA table_info({view.name})")]
            for view in schema.VIEWS
        }


def database() -> str:
    """docs/reference/schema.md."""
    parts = [SCHEMA_HEAD.format(written=WRITTEN.format("`storage.schema` and `storage.meanings`"))]
    for view, columns in views().items():
        rows = [(f"`{name}`", meanings.meaning(view, name) or "") for name in columns]
        parts += [f"## {view}\n\nA row is {meanings.ROWS.get(view, '')}.\n\n"]
        parts += [table(("column", "meaning"), rows), _sample(view)]
    own = [(f"`{name}`", text) for name, text in meanings.PRIVATE.items()]
    return "".join(
        [*parts, ITEMS, table(("column", "meaning"), own), _sample("book", "book_latest")]
    )


def _sample(*names: str) -> str:
    lines = [f'crawler sql "{SAMPLES[name]}"\n' for name in names]
    return f"```sh\n{''.join(lines)}```\n\n"


# -- errors --------------------------------------------------------------------------------------

ERRORS_HEAD = """# Error codes

{written}A code stands in `fetches.error` for an attempt on the wire, in `requests.reason` for a request that was given up, in `v_errors.code` for what a person will want to read; `crawler errors` groups them by cause and domain, `crawler why URL` tells one URL's story. Codes are stable: scripts may rely on them.

What is done about a failure follows from whose fault it is. Times are those of `Retry()`: at most {attempts} attempts, pauses drawn from 0 to {wait:g} s, then 0 to {twice:g} s, doubling up to {most:g} s; a spider's `retry = Retry(...)` changes them.

"""  # noqa: E501

FAULTS = {
    "domain": (
        "The domain's",
        "The request goes back into the queue and no attempt of it is spent; the whole domain rests, the longer the more failures in a row. After `domain.probes` failures (3 for a domain that has never answered) or `domain.give_up` seconds everything queued for it fails as `domain-unreachable`.",  # noqa: E501
    ),
    "request": (
        "The page's",
        "An attempt is spent, and the request is tried again later if its method may be repeated (GET, HEAD, OPTIONS, TRACE, PUT, DELETE); after the last attempt it is failed with this code.",  # noqa: E501
    ),
    "permanent": (
        "Nobody's that waiting would change",
        "The request is failed at once: another attempt would end alike.",
    ),
    "local": (
        "This machine's",
        "The request goes back into the queue for a second or more; no attempt is spent, and the domain does not hear of it.",  # noqa: E501
    ),
    "spider": (
        "The spider's",
        "The page is failed and not fetched again: the same code would do the same. What the callback gave before it raised is kept (`on_error = keep`). When the spider is corrected, `crawler requeue` queues the page again, and its rows do not double.",  # noqa: E501
    ),
    "rule": (
        "A rule's",
        "The URL was found and is not asked for: its row is `dropped`, with the rule as its reason.",  # noqa: E501
    ),
}
"""Fault to the heading of its codes and what is done about them."""

ANSWERS = """## Answers

A status outside 200 to 299 that neither the spider's nor the request's `statuses` name has the code `http-` and its number; redirects are followed and are no failure. A Retry-After is obeyed up to {most:g} s. A method that may not be repeated (POST) is tried again after 429 and 503 only, by which a server says that it did nothing.

"""  # noqa: E501

DONE = {
    "domain": "the domain rests, no attempt is spent",
    "request": "an attempt is spent, tried again",
    "permanent": "failed at once",
}
"""What follows an answer, in a few words."""


def failures() -> str:
    """docs/reference/errors.md."""
    retry = Retry()
    assert isinstance(retry.wait, float)
    head = ERRORS_HEAD.format(
        written=WRITTEN.format("`crawler.codes`"),
        attempts=retry.attempts,
        wait=retry.wait,
        twice=2 * retry.wait,
        most=retry.max_wait,
    )
    return head + "".join(map(_fault, FAULTS)) + _answers(retry)


def _fault(fault: str) -> str:
    heading, done = FAULTS[fault]
    rows = [
        (f"`{name}`", code.meaning, code.hint)
        for name, code in CODES.items()
        if code.fault == fault
    ]
    return f"## {heading}\n\n{done}\n\n" + table(("code", "meaning", "hint"), rows)


def outcome(
    retry: Retry, *, status: int | None = None, code: str = "", after: str | None = None
) -> str:
    """What is done about the first failure of a GET: domain, request, local or permanent."""
    error = FetchError(code) if code else None
    verdict = retry.decide(
        method="GET", attempt=1, now=0.0, status=status, retry_after=after, error=error
    )
    match verdict:
        case Requeue(domain_for=float()):
            return "domain"
        case Requeue(spent=True):
            return "request"
        case Requeue():
            return "local"
        case GiveUp():
            return "permanent"
    raise AssertionError(verdict)


def _answers(retry: Retry) -> str:
    statuses = sorted({*retry.statuses, 401, 403, 404, 410})
    rows = [(f"`http-{status}`", *_answer(retry, status)) for status in statuses]
    rest = ("any other", *_answer(retry, 418))
    return ANSWERS.format(most=retry.max_retry_after) + table(
        ("code", "what is done", "hint"), [*rows, rest]
    )


def _answer(retry: Retry, status: int) -> tuple[str, str]:
    done = DONE[outcome(retry, status=status)]
    if outcome(retry, status=status) != outcome(retry, status=status, after="30"):
        done = f"{done}; with Retry-After: {DONE[outcome(retry, status=status, after='30')]}"
    code = code_of(f"http-{status}")
    assert code is not None
    return done, code.hint


# -- all -----------------------------------------------------------------------------------------


def commands() -> str:
    """docs/reference/commands.md."""
    return reference_commands.page(WRITTEN.format("`crawler.cli.COMMANDS`"))


PAGES = {
    "commands.md": commands,
    "settings.md": settings,
    "schema.md": database,
    "errors.md": failures,
}
"""File name to what writes it."""


def written(page: str) -> str:
    """A page as it should be, with one newline at its end."""
    return PAGES[page]().rstrip("\n") + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for page in PAGES:
        (FOLDER / page).write_text(written(page), "utf-8")
