"""Run a callback on a page and collect what it gives.

Owns: the shapes a callback may have (plain or async, function or generator), the error
it raised with the user's frames only. Does not own: what is done with the harvest.

Invariants: what was collected before an error stays in the harvest; an item that cannot
become a row is an error of its own and does not stop the callback; a generator is closed
before its harvest is in; nothing is written here.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawler.errors import ItemError, SpiderError, StopCrawl
from crawler.items import is_item, to_row
from crawler.plugins import is_ours
from crawler.request import Request
from storage import ErrorRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.plugins import Hook
    from crawler.response import Response
    from storage import ItemRow

__all__ = ["Harvest", "collect", "describe", "describe_bug"]

OURS = str(Path(__file__).parent) + os.sep
MOST_ERRORS = 20
"""Error rows kept of one page; a last one tells how many more there were."""


class Harvest:
    """What one callback gave."""

    __slots__ = ("errors", "items", "refused", "requests", "stops", "values")

    def __init__(self) -> None:
        self.items: list[ItemRow] = []
        self.values: list[Any] = []
        """The items as the spider made them, after the `on_item` hooks."""
        self.requests: list[Request] = []
        self.errors: list[ErrorRow] = []
        self.refused = 0
        """Items that could not become rows."""
        self.stops = False
        """The callback raised StopCrawl."""

    def __repr__(self) -> str:
        counts = f"{len(self.items)} items, {len(self.requests)} requests"
        return f"<Harvest {counts}, {len(self.errors)} errors>"

    def remove(self, kind: type) -> None:
        """Forget the items of one class."""
        kept = [n for n, value in enumerate(self.values) if type(value) is not kind]
        self.items = [self.items[n] for n in kept]
        self.values = [self.values[n] for n in kept]

    def discard(self) -> None:
        """Forget everything but the errors (`on_error = "drop"`)."""
        self.items.clear()
        self.values.clear()
        self.requests.clear()


async def collect(
    call: Callable[[], Any], *, page: Response, on_item: list[Hook], default_table: str
) -> Harvest:
    """Call a callback and take in everything it returns or yields."""
    harvest = Harvest()
    try:
        given = call()
        if isinstance(given, Awaitable):
            given = await given
        try:
            if isinstance(given, AsyncIterator):
                async for result in given:
                    await _take(harvest, result, page, on_item, default_table)
            else:
                await _take(harvest, given, page, on_item, default_table)
        finally:
            if isinstance(given, AsyncGenerator):
                await given.aclose()
            elif isinstance(given, Generator):
                given.close()
    except StopCrawl:
        harvest.stops = True
    except (Exception, SystemExit, GeneratorExit) as error:
        harvest.errors.append(describe(error))
    except asyncio.CancelledError as error:
        if is_ours(error):
            raise
        harvest.errors.append(describe(error))
    if harvest.refused > MOST_ERRORS:
        more = f"{harvest.refused - MOST_ERRORS} more items of this page could not be stored"
        harvest.errors.append(ErrorRow(code=ItemError.code, message=more))
    return harvest


async def _take(
    harvest: Harvest, result: Any, page: Response, on_item: list[Hook], default_table: str
) -> None:
    if result is None:
        return
    if isinstance(result, Request):
        harvest.requests.append(result)
    elif is_item(result):
        await _take_item(harvest, result, page, on_item, default_table)
    elif isinstance(result, Iterable) and not isinstance(result, str | bytes | Mapping):
        for one in result:
            if type(one) is Request:  # most of what pages give: no coroutine for each
                harvest.requests.append(one)
            else:
                await _take(harvest, one, page, on_item, default_table)
    else:
        raise SpiderError(
            f"a callback gave {type(result).__name__}: {result!r:.80}; "
            "it may give items, requests, None, or iterables of them"
        )


async def _take_item(
    harvest: Harvest, value: Any, page: Response, on_item: list[Hook], default_table: str
) -> None:
    for hook in on_item:
        value = hook(value, page)
        if inspect.isawaitable(value):
            value = await value
        if value is None:
            return
    try:
        harvest.items.append(to_row(value, len(harvest.items), default_table))
        harvest.values.append(value)
    except ItemError as error:
        harvest.refused += 1
        if harvest.refused <= MOST_ERRORS:
            harvest.errors.append(describe(error))


def describe(error: BaseException) -> ErrorRow:
    """An error as a row: its code, its sentence, and the traceback of the user's frames."""
    code = error.code if isinstance(error, SpiderError) else "callback"
    message = str(error) if isinstance(error, SpiderError) else f"{type(error).__name__}: {error}"
    origin = error.__cause__ if isinstance(error, SpiderError) and error.__cause__ else error
    frames = [
        frame
        for frame in traceback.extract_tb(origin.__traceback__)
        if not frame.filename.startswith(OURS)
    ]
    detail = "".join(traceback.format_list(frames)) if frames else None
    return ErrorRow(code=code, message=message[:2000], detail=detail)


def describe_bug(error: BaseException) -> ErrorRow:
    """A mistake of our own as a row, with the whole traceback."""
    message = f"{type(error).__name__}: {error}"
    detail = "".join(traceback.format_exception(error))
    return ErrorRow(code="internal", message=message[:2000], detail=detail[-8000:])
