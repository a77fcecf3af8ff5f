"""What the names of `crawler shell` do: fetch a page, ask it, run what is awaited.

Owns: the loop in a thread of its own, the names (`page`, `fetch`, `css`, …), how matches
and errors are shown. Does not own: reading what is typed (`shell`), fetching (`single`).

Invariants: the loop, its connections and its thread are gone when `close` returns; what
came from the web is escaped before it is shown; an error shows the person's frames only.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import sysconfig
import threading
import traceback
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crawler.errors import CrawlerError, UsageError
from crawler.wording import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

    from crawler.node import Node
    from crawler.request import Request
    from crawler.response import Response
    from crawler.settings import Settings
    from crawler.single import Attempt, Single

__all__ = ["Loop", "Workbench", "tell_raised"]

SHOWN = 20
"""Matches that are shown of a list."""
CLOSE_S = 1.0
WIDTH = 160
"""Cells of a line where no terminal says it."""
TYPED = ("<console>", "<-c>", "<stdin>", "<ipython")


class Loop:
    """An event loop in a thread; `run` awaits there what is given here."""

    at_end: Callable[[], Awaitable[None]] | None = None
    """Awaited there last."""

    def __init__(self) -> None:
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._live, name="crawler-shell", daemon=True)
        self._thread.start()
        self._loop, self._over = self._ready.result()

    def __repr__(self) -> str:
        return f"<Loop {'running' if self._thread.is_alive() else 'closed'}>"

    def _live(self) -> None:
        from crawler.crawling import run_loop

        run_loop(self._wait())

    async def _wait(self) -> None:
        over = asyncio.Event()
        self._ready.set_result((asyncio.get_running_loop(), over))
        await over.wait()
        if self.at_end is not None:
            await self.at_end()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The answer of a coroutine; Ctrl-C cancels it. Not for code that runs on the loop."""
        future = asyncio.run_coroutine_threadsafe(_held(work), self._loop)
        try:
            value, error = future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise
        if error is not None:
            raise error
        return value

    @property
    def is_here(self) -> bool:
        """The code that asks runs on the loop."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Cancel what still runs, end the thread; code that never lets go is left. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(CLOSE_S)


async def _held(work: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """What would end the loop is an error for who asked."""
    try:
        return await work, None
    except (SystemExit, KeyboardInterrupt) as error:
        return None, error


class Workbench:
    """The page at hand and what can be asked of it; `names` is what code sees."""

    def __init__(self, settings: Settings) -> None:
        from crawler import Request, Spider, crawl, item

        self.loop = Loop()
        self.settings = settings
        self.page: Response | None = None
        self._single: Single | None = None
        self.names: dict[str, Any] = {"__name__": "__console__", "page": None}
        self.names |= {each.__name__: each for each in (self.fetch, self.css, self.links)}
        self.names |= {"Request": Request, "Spider": Spider, "crawl": crawl, "item": item}

    def __repr__(self) -> str:
        return f"<Workbench {self.page!r}>"

    def close(self) -> None:
        """Close connections, loop and thread. Idempotent."""
        self.loop.close()

    # -- names -------------------------------------------------------------------------

    def fetch(self, what: str | Request) -> Any:
        """Fetch a URL or a Request; the answer, whatever its status, becomes `page`.

        In async code: `await fetch(url)`. Raises FetchError when no answer came,
        SpiderError for what is no request.
        """
        from crawler import Request

        work = self._fetch(Request(what) if isinstance(what, str) else what)
        return work if self.loop.is_here else self.loop.run(work)

    def css(self, selector: str) -> Any:
        """What a selector matches, shown in short; with `::text` or `::attr(x)` the texts."""
        from crawler.node import split

        page = self._at_hand()
        css, _ = split(selector)
        if css != selector:
            return Listed(page.getall(selector))
        return Matches(page, selector)

    def links(self) -> Any:
        """The absolute URLs that the page links to."""
        return Listed(self._at_hand().links())

    # -- behind them ---------------------------------------------------------------------

    def take(self, page: Response) -> Response:
        """From now on this is `page`."""
        self.page = self.names["page"] = page
        return page

    def _at_hand(self) -> Response:
        page = self.names.get("page")
        if page is None:
            raise UsageError('there is no page yet: fetch("https://example.com/")')
        found: Response = page
        return found

    async def _fetch(self, request: Request) -> Response:
        from crawler.single import Single

        if self._single is None:
            single = Single(None, self.settings, told=_told)
            self._single = await single.__aenter__()
            self.loop.at_end = single.aclose
        fetched = await self._single.fetch(request)
        if fetched.page is None:
            assert fetched.error is not None
            raise fetched.error
        return self.take(fetched.page)


def _told(attempt: Attempt) -> None:
    """What went wrong on the way is told; what did not is not."""
    from crawler.cli.onepage import tell_attempt

    if attempt.outcome.error is not None or attempt.pause_s is not None:
        tell_attempt(attempt)


# -- shown ------------------------------------------------------------------------------------


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH


def _numbered(rows: Sequence[str], total: int) -> str:
    digits = len(str(max(0, len(rows) - 1)))
    lines = [printable(f"{n:>{digits}}  {row}", _width()) for n, row in enumerate(rows)]
    return "\n".join(lines + [f"… and {total - len(rows):,} more"] * (total > len(rows)))


class Listed(list[str]):
    """Texts that a prompt shows one below the other."""

    def __repr__(self) -> str:
        return _numbered(self[:SHOWN], len(self)) if self else "[]"


class Matches(list["Node"]):
    """The matches of a selector; where there are none, why."""

    def __init__(self, page: Response, selector: str) -> None:
        super().__init__(page.css(selector))
        self._page = page
        self._selector = selector

    def __repr__(self) -> str:
        if self:
            return _numbered([_brief(node) for node in self[:SHOWN]], len(self))
        from crawler.misses import explain

        told = explain(self._selector, self._page).told
        return printable(f"no match{': ' if told else ''}{told}")


def _brief(node: Node) -> str:
    named = (f' {name}="{value}"' for name, value in node.attributes.items())
    return f"<{node.raw.tag}{''.join(named)}> {' '.join(node.text.split())}"


# -- errors -----------------------------------------------------------------------------------


def tell_raised(error: BaseException) -> None:
    """An error with the person's frames, on stderr; ours and Python's are left out."""
    told = traceback.TracebackException.from_exception(error)
    if isinstance(error, CrawlerError):
        told.__cause__ = told.__context__ = None
    one: traceback.TracebackException | None = told
    while one is not None:
        one.stack = traceback.StackSummary.from_list(_of_person(one.stack))
        one = one.__cause__ or one.__context__
    for text in told.format():
        for line in text.rstrip("\n").split("\n"):
            click.echo(printable(line), err=True)
    hint = getattr(error, "hint", None)
    if hint:
        click.echo(f"  hint: {printable(hint)}", err=True)


def _of_person(frames: Iterable[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    folders = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    hidden = (str(Path(__file__).parents[1]), "<frozen", *folders)
    return [
        frame
        for frame in frames
        if frame.filename.startswith(TYPED) or not frame.filename.startswith(hidden)
    ]
