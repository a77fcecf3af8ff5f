"""Harvest: whatever a callback gives is taken in, and an error costs no more than it must."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from crawler import Plugin, Request, Response, SpiderError, StopCrawl, item
from crawler.errors import NoMatch
from crawler.harvest import Harvest, collect, describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from crawler.plugins import Hook

PAGE = Response(Request("http://a.test/"), "http://a.test/", 200, body=b"<p>hello</p>")


@item
class Book:
    title: str


@dataclass
class Loose:
    value: object


def harvest_of(call: Callable[[], Any], *hooks: Hook) -> Harvest:
    async def run() -> Harvest:
        return await collect(call, page=PAGE, on_item=list(hooks), default_table="items")

    return asyncio.run(run())


def titles(harvest: Harvest) -> list[str]:
    return [value.title if isinstance(value, Book) else value for value in harvest.values]


# -- shapes ------------------------------------------------------------------------------


def plain() -> list[object]:
    return [Book("a"), Request("http://a.test/2"), None]


def generator() -> Iterator[object]:
    yield from plain()


async def coroutine() -> list[object]:
    await asyncio.sleep(0)
    return plain()


async def async_generator() -> AsyncIterator[object]:
    for each in plain():
        await asyncio.sleep(0)
        yield each


async def coroutine_of_a_generator() -> Iterator[object]:
    return generator()


@pytest.mark.parametrize(
    "call", [plain, generator, coroutine, async_generator, coroutine_of_a_generator]
)
def test_a_callback_may_be_plain_or_async_and_return_or_yield(call: Callable[[], Any]) -> None:
    harvest = harvest_of(call)
    assert titles(harvest) == ["a"]
    assert [request.url for request in harvest.requests] == ["http://a.test/2"]
    assert not harvest.errors
    assert repr(harvest) == "<Harvest 1 items, 1 requests, 0 errors>"


@pytest.mark.parametrize(
    ("given", "items", "requests"),
    [
        (None, 0, 0),
        (Book("a"), 1, 0),
        ({"title": "a"}, 1, 0),
        (Request("http://a.test/"), 0, 1),
        ([[Book("a")], (Book("b"), [None, [Request("http://a.test/")]])], 2, 1),
        ((Book(t) for t in "abc"), 3, 0),
        ([], 0, 0),
    ],
)
def test_results_may_stand_alone_or_be_nested(given: Any, items: int, requests: int) -> None:
    harvest = harvest_of(lambda: given)
    assert (len(harvest.items), len(harvest.requests), harvest.errors) == (items, requests, [])


def test_items_are_numbered_in_their_order_and_mappings_go_to_the_spiders_table() -> None:
    harvest = harvest_of(lambda: [{"a": 1}, Book("b"), {"c": 3}])
    assert [row.ordinal for row in harvest.items] == [0, 1, 2]
    assert [row.table for row in harvest.items] == ["items", "book", "items"]


# -- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["text", b"bytes", 7, object(), lambda: None, [Book("a"), 7]])
def test_what_is_no_result_is_an_error_that_names_it(given: Any) -> None:
    harvest = harvest_of(lambda: given)
    (error,) = harvest.errors
    assert error.code == "callback"
    culprit = given[1] if isinstance(given, list) else given
    assert type(culprit).__name__ in error.message
    assert len(harvest.items) == isinstance(given, list)


def fails_halfway() -> Iterator[object]:
    yield Book("before")
    yield Request("http://a.test/before")
    raise ValueError("the page changed")


async def fails_halfway_async() -> AsyncIterator[object]:
    for each in (Book("before"), Request("http://a.test/before")):
        yield each
    raise ValueError("the page changed")


@pytest.mark.parametrize("call", [fails_halfway, fails_halfway_async])
def test_what_came_before_an_error_stays(call: Callable[[], Any]) -> None:
    harvest = harvest_of(call)
    assert titles(harvest) == ["before"]
    assert len(harvest.requests) == 1
    (error,) = harvest.errors
    assert (error.code, error.message) == ("callback", "ValueError: the page changed")
    harvest.discard()
    assert (harvest.items, harvest.values, harvest.requests) == ([], [], [])
    assert harvest.errors == [error]


def test_an_item_that_cannot_become_a_row_does_not_stop_the_others() -> None:
    harvest = harvest_of(lambda: [Book("a"), Loose(object()), {"_run": 1}, Book("b")])
    assert titles(harvest) == ["a", "b"]
    assert [row.ordinal for row in harvest.items] == [0, 1]
    assert [error.code for error in harvest.errors] == ["item-invalid"] * 2
    assert "value" in harvest.errors[0].message


def test_a_page_of_bad_items_keeps_a_bounded_number_of_errors() -> None:
    harvest = harvest_of(lambda: [{"": n} for n in range(100)])
    assert len(harvest.errors) == 21
    assert "80 more items" in harvest.errors[-1].message
    assert harvest.items == []


def test_a_selector_without_a_match_has_a_code_of_its_own() -> None:
    def call() -> Book:
        return Book(PAGE.get("h1"))

    (error,) = harvest_of(call).errors
    assert error.code == NoMatch.code
    assert "'h1'" in error.message
    assert "http://a.test/" in error.message


def test_the_traceback_holds_the_users_frames_only() -> None:
    def deepest() -> None:
        PAGE.get("h1")

    def call() -> Iterator[object]:
        yield Book("a")
        deepest()

    (error,) = harvest_of(call).errors
    assert error.detail is not None
    frames = [line.strip() for line in error.detail.splitlines() if line.startswith("  File")]
    assert len(frames) == 2
    assert all(__file__ in frame for frame in frames)
    assert "deepest" in frames[-1]


def test_an_error_of_ours_alone_has_no_traceback() -> None:
    (error,) = harvest_of(lambda: 7).errors
    assert error.detail is None


def test_a_long_message_is_cut() -> None:
    assert len(describe(SpiderError("x" * 10_000)).message) == 2000


# -- stopping ----------------------------------------------------------------------------


def stops_halfway() -> Iterator[object]:
    yield Book("before")
    raise StopCrawl


async def stops_halfway_async() -> AsyncIterator[object]:
    yield Book("before")
    raise StopCrawl


def stops_plainly() -> None:
    raise StopCrawl


@pytest.mark.parametrize(
    ("call", "before"),
    [(stops_halfway, ["before"]), (stops_halfway_async, ["before"]), (stops_plainly, [])],
)
def test_stopping_the_crawl_is_no_error_and_keeps_what_came_before(
    call: Callable[[], Any], before: list[str]
) -> None:
    harvest = harvest_of(call)
    assert harvest.stops
    assert titles(harvest) == before
    assert harvest.errors == []


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_generator_that_gave_nonsense_is_closed_before_the_harvest_is_in(kind: str) -> None:
    closed = []

    def plainly() -> Iterator[object]:
        try:
            yield Book("a")
            yield 7
        finally:
            closed.append(kind)

    async def asynchronously() -> AsyncIterator[object]:
        try:
            yield Book("a")
            yield 7
        finally:
            closed.append(kind)

    async def run() -> list[str]:
        call: Callable[[], Any] = plainly if kind == "plain" else asynchronously
        given = call()
        await collect(lambda: given, page=PAGE, on_item=[], default_table="items")
        return list(closed)

    assert asyncio.run(run()) == [kind]


# -- hooks -------------------------------------------------------------------------------


class Shouting(Plugin):
    def on_item(self, item: Any, page: Response) -> Any:
        return Book(item.title.upper())


class Choosing(Plugin):
    async def on_item(self, item: Any, page: Response) -> Any:
        await asyncio.sleep(0)
        return item if item.title != "B" else None


def test_on_item_may_change_or_drop_items_one_hook_after_the_other() -> None:
    hooks = [Shouting().on_item, Choosing().on_item]
    harvest = harvest_of(lambda: [Book("a"), Book("b"), Book("c")], *hooks)
    assert titles(harvest) == ["A", "C"]
    assert [row.ordinal for row in harvest.items] == [0, 1]
    assert [row.values for row in harvest.items] == [("A",), ("C",)]


def test_a_hook_that_drops_an_item_hides_it_from_the_hooks_after_it() -> None:
    seen = []

    def look(item: Book, page: Response) -> Book:
        seen.append((item.title, page.url))
        return item

    harvest_of(lambda: [Book("B"), Book("c")], Choosing().on_item, look)
    assert seen == [("c", PAGE.url)]


def test_a_hook_that_raises_is_an_error_of_the_page() -> None:
    def fail(item: Book, page: Response) -> Book:
        raise KeyError("price")

    harvest = harvest_of(lambda: [Request("http://a.test/2"), Book("a")], fail)
    (error,) = harvest.errors
    assert error.message == "KeyError: 'price'"
    assert len(harvest.requests) == 1
    assert harvest.items == []


def test_cancellation_is_not_taken_for_an_error_of_the_callback() -> None:
    waiting = asyncio.Event()

    async def call() -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.ensure_future(collect(call, page=PAGE, on_item=[], default_table="items"))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


@pytest.mark.parametrize("raised", [asyncio.CancelledError, SystemExit, GeneratorExit])
def test_what_a_callback_lets_out_by_itself_is_its_error(raised: type[BaseException]) -> None:
    async def call() -> None:
        raise raised

    (error,) = harvest_of(call).errors
    assert raised.__name__ in error.message
