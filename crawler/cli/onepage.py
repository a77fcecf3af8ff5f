"""What `fetch`, `shell` and `parse` share: one page that a person asks for.

Owns: what a URL must look like, the settings without a spider, telling what happens while
it happens, errors and what to do about them where there is no database. Does not own:
fetching (`crawler.single`).

Invariants: nothing is said on stdout; a person is not left without news for long; what came
from the web is escaped.
"""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crawler.cli.paragraphs import frames
from crawler.cli.voice import tell_error
from crawler.errors import FetchError, SpiderError, UsageError, advice
from crawler.wording import duration, printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from crawler.layers import Layer
    from crawler.request import Request
    from crawler.settings import Settings
    from crawler.single import Attempt, Fetched, Single
    from crawler.spider import Spider

__all__ = [
    "carried_out",
    "check_scheme",
    "fetched",
    "json_of",
    "read_stdin",
    "settings_here",
    "tell_attempt",
    "tell_fetch_error",
]

SILENCE_S = 5.0
"""Seconds without news after which a person is told what is waited for."""
ELSEWHERE = ("`crawler why ", "`crawler errors ", "`crawler requeue ", "`crawler fetch URL`")
"""Commands that need a crawl's database, or were just tried."""
HERE = {
    "protocol": "is it an HTTP port? try the other one of http:// and https://",
    "truncated": "the server or a proxy cut it; a second attempt may end well",
    "redirect-loop": "the chain is above; a cookie may be what it waits for",
    "bad-redirect": "its Location is above",
}
"""Hints of codes for which there is only such a command."""


# -- what is asked for ----------------------------------------------------------------------


def check_scheme(url: str, command: str) -> None:
    """Raises UsageError for what is no http or https URL."""
    if "://" not in url:
        raise UsageError(
            f"`{url}` has no scheme", hint=f"crawler {command} https://{url.lstrip('/')}"
        )
    if not url.lower().startswith(("http://", "https://")):
        raise UsageError(f"`{url}`: only http and https can be fetched", hint="https://…")


def settings_here(flags: list[Layer]) -> Settings:
    """What files, environment and flags set, without a spider."""
    from crawler.layers import environment_layer, file_layers, resolve

    return resolve([*file_layers(Path()), environment_layer(os.environ), *flags])


def read_stdin() -> bytes:
    """All of it; empty where there is none."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


# -- while it happens -------------------------------------------------------------------------


def carried_out(work: Coroutine[Any, Any, Any]) -> Any:
    """The answer of a coroutine. What a spider's hook raised is told, and ends the command
    with exit code 1."""
    from crawler.crawling import run_loop
    from crawler.harvest import describe

    try:
        return run_loop(work)
    except SpiderError as error:
        told = describe(error)
        notes = "\n".join(_notes(error))  # its frames, where the session called the hook
        tell_error(told.message, frames=frames(notes or (told.detail if error.__cause__ else "")))
        raise click.exceptions.Exit(1) from error


@contextlib.asynccontextmanager
async def fetched(
    request: Request, spider: Spider | None, settings: Settings, *, quiet: bool
) -> AsyncIterator[tuple[Single, Fetched]]:
    """A page, and the session in which it was fetched; unless `quiet`, what happens is told."""
    import asyncio

    from crawler.single import Single

    text = f"still waiting for {printable(request.url)}, or for its domain's pace; Ctrl-C ends it"
    async with Single(spider, settings, told=None if quiet else tell_attempt) as single:
        say = partial(click.echo, text, err=True)
        timer = None if quiet else asyncio.get_running_loop().call_later(SILENCE_S, say)
        try:
            found = await single.fetch(request)
        finally:
            if timer is not None:
                timer.cancel()
        yield single, found


def tell_attempt(attempt: Attempt) -> None:
    """Where one request went, its status or error, and its timings."""
    outcome, info = attempt.outcome, attempt.outcome.connection
    through = f"  (through {outcome.proxy})" if outcome.proxy else ""
    click.echo(printable(f"{attempt.request.method} {attempt.url}{through}"), err=True)
    what = str(outcome.status) if outcome.error is None else f"{outcome.code}: {outcome.message}"
    dns_s, tls_s = (info.dns_s, info.tls_s) if info is not None else (None, None)
    connect_s = info.connect_s if info is not None else None
    if connect_s is not None:
        connect_s = max(0.0, connect_s - (dns_s or 0) - (tls_s or 0))
    steps = [
        ("wait", attempt.wait_s if attempt.wait_s >= 0.001 else None),
        ("dns", dns_s),
        ("connect", connect_s),
        ("tls", tls_s),
        ("first byte", outcome.ttfb_s),
        ("total", outcome.total_s),
    ]
    times = " · ".join(f"{name} {duration(spent)}" for name, spent in steps if spent is not None)
    pause_s = attempt.pause_s
    again = f" · again in {duration(pause_s)}" if pause_s is not None else ""
    click.echo(printable(f"  {what}  {times}{again}"), err=True)


# -- what came of it ----------------------------------------------------------------------------


def tell_fetch_error(error: FetchError, url: str, spider: Spider | None = None) -> None:
    """What a crawl would not deliver, and what to do about it."""
    tell_error(str(error), hint=_hint(error.code, url, spider))


def _hint(code: str, url: str, spider: Spider | None) -> str:
    """Empty: nothing is known."""
    from crawler.urls import canonicalise

    if code.startswith("http-"):
        who = f"spider {spider.name}" if spider is not None else "a spider"
        return f"statuses = [{code.removeprefix('http-')}] in {who} delivers such pages"
    if code in HERE:
        return HERE[code]
    host = None
    with contextlib.suppress(FetchError):
        host, url = (target := canonicalise(url)).domain, target.url
    clauses = zip(
        advice(code).split("; "), advice(code, url=url, host=host).split("; "), strict=False
    )
    return "; ".join(
        filled for plain, filled in clauses if not any(each in plain for each in ELSEWHERE)
    )


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def json_of(known: Any) -> str:
    """One JSON object in ASCII: a terminal may show it."""
    import json

    import msgspec

    return json.dumps(msgspec.json.decode(msgspec.json.encode(known))) + "\n"
