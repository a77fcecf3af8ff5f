"""What code asks a crawl for: spider, database, the run to go on with; checked.

Owns: what is refused before anything is opened, and by what a run is found again.
Does not own: running it (`crawling`), the command's own words (`cli.plans`).

Invariants: nothing that was given is ignored; a mistake is told before the first request.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from crawler.errors import FetchError, SettingsError, SpiderLoadError, UsageError
from crawler.settings import Settings
from crawler.spider import Spider
from crawler.urls import canonicalise
from storage import RunState

if TYPE_CHECKING:
    from crawler.engine import Session
    from storage import RunRow

__all__ = ["Resume", "check", "identity_of", "made", "run_of"]

Resume = Literal[False, True, "auto"]
"""False: a new run. "auto": as `crawler run` does it, the last run of the same spider and
arguments where it was interrupted or waits, else a new one; changed code is a UsageError.
True: the last run, whatever changed; a UsageError where there is none."""


def made(spider: Any, arguments: dict[str, Any]) -> Spider:
    """A spider of what was given for one. Raises SpiderLoadError."""
    if isinstance(spider, type) and issubclass(spider, Spider):
        return spider(**arguments)
    if not isinstance(spider, Spider):
        raise SpiderLoadError(
            f"a crawl takes a class or an instance of Spider, not {spider!r:.80}",
            hint="import the spider's class: from spiders.books import Books",
        )
    if arguments:
        names = ", ".join(arguments)
        raise SpiderLoadError(
            f"{names}: spider {spider.name} is made already and takes no more arguments",
            hint=f"give them when it is made: {type(spider).__name__}({names}=...)",
        )
    return spider


def check(
    spider: Spider,
    db: str | Path | None,
    settings: Settings | None,
    session: Session | None,
    resume: Resume,
) -> None:
    """Refuse what could only go wrong later, or be ignored."""
    if not isinstance(settings, Settings | None):
        raise SettingsError(
            f"settings of type {type(settings).__name__}: expected Settings, or None",
            hint="settings=Settings(limit=100)",
        )
    if not isinstance(db, str | Path | None) or (db is not None and _names_no_file(db)):
        raise UsageError(
            f"db={str(db)!r} is no file", hint='db="books.db"; without it all stays in memory'
        )
    if db is not None and session is not None:
        raise UsageError(
            "db and session are both given: a session has its own database",
            hint="await Session.open(db), and give that session",
        )
    if session is not None and session._loop is not asyncio.get_running_loop():
        raise UsageError(
            "the session belongs to another event loop",
            hint="open it where it is used: async with await Session.open(db) as session",
        )
    if resume not in (False, True, "auto"):
        raise UsageError(f"resume={resume!r} is none of False, True, 'auto'", hint="resume='auto'")
    if resume and db is None and session is None:
        raise UsageError(
            f"resume={resume!r} without a database: nothing is kept in memory", hint='db="books.db"'
        )
    is_plain = getattr(spider.start, "__func__", None) is Spider.start
    if is_plain and spider.start_urls in ((), []):
        raise SpiderLoadError(
            f"spider {spider.name} has no start URL", hint='start_urls = ["https://..."]'
        )


def _names_no_file(db: str | Path) -> bool:
    name = str(db)
    return not name.strip() or name in (":memory:", "memory:") or "://" in name or Path(db).is_dir()


def identity_of(spider: Spider) -> str:
    """What a run is found again by: as the command has it, where URLs replace the class's."""
    urls = vars(spider).get("start_urls")
    if not isinstance(urls, list | tuple):
        return spider.canonical_arguments()
    identity: dict[str, Any] = msgspec.json.decode(spider.canonical_arguments())
    identity["start_urls"] = [_canonical(url) for url in urls]
    return msgspec.json.encode(identity, order="deterministic").decode()


def _canonical(url: str) -> str:
    try:
        return canonicalise(url).url
    except FetchError:  # it gets its row later
        return url


async def run_of(
    session: Session, spider: Spider, identity: str, code: str, resume: Resume
) -> RunRow | None:
    """The run to go on with; None: a new one begins."""
    runs = await session.store.runs()
    same = [run for run in runs if run.spider == spider.name and run.arguments == identity]
    last = same[-1] if same else None
    if resume is True:
        if last is None:
            raise UsageError(
                f"no run of {spider.name} with these arguments to go on with",
                hint='resume="auto" begins one',
            )
        return last
    if last is None or last.state not in (RunState.WAITING, RunState.INTERRUPTED):
        return None
    if last.code_hash != code:
        raise UsageError(
            f"{last.name} was interrupted, and {spider.name} has changed since",
            hint="resume=True goes on with it, resume=False begins anew",
        )
    return last
