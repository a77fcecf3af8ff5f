"""Hooks: the moments of a crawl in which a spider, or a plugin of many, has a say.

Owns: their names, arguments and order. Does not own: calling them (the engine), or what a
hook's answer leads to.

Invariants: plugins come before the spider, in the order in which they are listed; a hook
that nobody overrides is in no list, so it costs nothing; every hook may be plain or async.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from crawler.errors import SpiderError, StopCrawl

if TYPE_CHECKING:
    from crawler.request import Request
    from crawler.response import Response

__all__ = ["Hook", "Hooks", "Plugin", "call", "hooks", "is_ours"]

Hook = Callable[..., Any]


class Plugin:
    """What spiders share: log-ins, headers, checks. Override the hooks that are needed.

    One instance serves every spider that lists it in `plugins`. What a hook raises is an
    error of the page or the request it was called for.
    """

    def opened(self) -> Awaitable[None] | None:
        """The crawl begins: nothing was requested yet. An error ends the run."""

    def before_request(self, request: Request) -> Request | Awaitable[Request]:
        """About to be sent: answer with it, or with a changed one (not another URL)."""
        return request

    def after_response(self, page: Response) -> Awaitable[None] | None:
        """Delivered, and about to go to its callback."""

    def before_retry(
        self, request: Request, error: Exception, wait_s: float
    ) -> Awaitable[None] | None:
        """About to go back into the queue for `wait_s` seconds."""

    def on_error(self, request: Request, error: Exception) -> Awaitable[None] | None:
        """Given up, or its callback raised."""

    def on_item(self, item: Any, page: Response) -> Any:
        """About to become a row: answer with it, with another item, or None to drop it."""
        return item

    def closed(self, result: Any) -> Awaitable[None] | None:
        """The run has ended; `result` is what `crawl()` returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """The overridden hooks of a crawl, in the order in which they are called."""

    opened: list[Hook]
    before_request: list[Hook]
    after_response: list[Hook]
    before_retry: list[Hook]
    on_error: list[Hook]
    on_item: list[Hook]
    closed: list[Hook]

    def __repr__(self) -> str:
        used = [f"{len(calls)} {name}" for name, calls in _each(self) if calls]
        return f"<Hooks {', '.join(used) or 'none'}>"


def _each(found: Hooks) -> list[tuple[str, list[Hook]]]:
    return [(each.name, getattr(found, each.name)) for each in fields(found)]


def is_ours(error: BaseException) -> bool:
    """A cancellation of the running task itself, not one that user code let out."""
    task = asyncio.current_task()
    is_cancelled = isinstance(error, asyncio.CancelledError)
    return is_cancelled and task is not None and task.cancelling() > 0


async def call(hook: Hook, *given: Any) -> Any:
    """Call a hook, plain or async.

    Raises SpiderError for whatever it raised, but StopCrawl as it is.
    """
    try:
        answer = hook(*given)
        return await answer if inspect.isawaitable(answer) else answer
    except StopCrawl:
        raise
    except (Exception, SystemExit, GeneratorExit, asyncio.CancelledError) as error:
        if is_ours(error):
            raise
        name = getattr(hook, "__qualname__", repr(hook))
        raise SpiderError(f"hook {name}: {type(error).__name__}: {error}") from error


class Owner(Protocol):
    """A spider, as far as hooks go."""

    @property
    def plugins(self) -> Sequence[Plugin]:
        """In the order in which they are called."""


def hooks(spider: Owner) -> Hooks:
    """The hooks that the spider's plugins and the spider itself override."""
    owners = (*spider.plugins, spider)
    return Hooks(
        **{
            each.name: [
                getattr(owner, each.name)
                for owner in owners
                if getattr(type(owner), each.name) is not getattr(Plugin, each.name)
            ]
            for each in fields(Hooks)
        }
    )
