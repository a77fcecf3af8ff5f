"""`crawler parse`: a callback of a spider on one page, and what came of it.

Owns: the options of the command, which callback with which arguments, the form of what is
shown. Does not own: fetching and calling (`crawler.single`), where selectors stop matching
(`crawler.misses`).

Invariants: nothing is stored and no link is followed; what a callback gave before it raised
is shown; a mistyped callback or argument is told before any request.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

import click

from crawler.cli.onepage import (
    carried_out,
    check_scheme,
    fetched,
    json_of,
    tell_fetch_error,
)
from crawler.cli.voice import tell_error
from crawler.errors import UsageError, nearest
from crawler.wording import plural, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crawler.cli.plans import Plan
    from crawler.misses import Miss
    from crawler.single import Fetched, Judged
    from crawler.spider import Spider
    from storage import ErrorRow, ItemRow

__all__ = ["command"]

SHOWN = 20
"""Items of a table, and links, that a terminal shows."""


class Found(NamedTuple):
    """What came of a page."""

    fetched: Fetched
    items: Sequence[ItemRow]
    links: Sequence[Judged]
    misses: Sequence[Miss]
    errors: Sequence[ErrorRow]


@click.command()
@click.argument("spider", metavar="SPIDER|FILE.py[:CLASS]")
@click.argument("url")
@click.option("--callback", default="parse", metavar="NAME", help="Which one; default: parse.")
@click.option("--pass", "passed", multiple=True, metavar="NAME=VALUE", help="Callback argument.")
@click.option(
    "-a",
    "--arg",
    "args",
    multiple=True,
    metavar="NAME=VALUE",
    help="Spider argument, e.g. -a shelf=poetry; may be repeated.",
)
@click.option(
    "-s",
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Setting, e.g. -s domain.delay=2; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Not how the page was fetched.")
def command(
    spider: str,
    url: str,
    callback: str,
    passed: tuple[str, ...],
    args: tuple[str, ...],
    sets: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> int:
    """Run a callback of a spider on one page, and show what it gives: items, links, errors,
    and the selectors that matched nothing. Nothing is stored.

    Exit code: 1 when the callback raised, or no page came.
    """
    from crawler.cli.plans import make_plan
    from crawler.layers import flag_layer

    check_scheme(url, f"parse {spider}")
    plan = make_plan(spider, args, [url], None, [flag_layer(sets)])
    called = _callback(plan.spider, callback)
    given = _arguments(plan.spider, called, passed)
    found: Found = carried_out(_found(plan, url, called, given, quiet=quiet))
    if as_json:
        sys.stdout.write(json_of(_known(found)))
    elif found.fetched.error is None:
        _show(found)
    return _judge(found, plan.spider)


# -- what is called -------------------------------------------------------------------------


def _callback(spider: Spider, name: str) -> Callable[..., Any]:
    from crawler.spider import Spider

    own = inspect.getmembers(type(spider), inspect.isfunction)
    known = [each for each, _ in own if each == "parse" or not hasattr(Spider, each)]
    known = [each for each in known if not each.startswith("_")]
    if name not in known:
        best = nearest(name, known)
        hint = f"did you mean `--callback {best}`?" if best else f"it has: {', '.join(known)}"
        raise UsageError(f"spider {spider.name} has no callback `{name}`", hint=hint)
    found: Callable[..., Any] = getattr(spider, name)
    return found


def _arguments(
    spider: Spider, callback: Callable[..., Any], passed: Sequence[str]
) -> dict[str, Any]:
    """The callback's arguments beside the page, as its annotations want them."""
    name, signature = f"{spider.name}.{callback.__name__}", inspect.signature(callback)
    known = list(signature.parameters)[1:]
    given: dict[str, Any] = {}
    for pair in passed:
        argument, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"argument `{pair}` is not NAME=VALUE", hint="--pass shelf=poetry")
        given[argument] = _converted(name, callback, argument, text)
    try:
        signature.bind(None, **given)
    except TypeError as error:
        lost = next((each for each in given if each not in known), None)
        best = nearest(lost, known) if lost else None
        listed = " ".join(f"--pass {each}=VALUE" for each in known)
        hint = f"did you mean `--pass {best}=…`?" if best else listed
        raise UsageError(f"{name}: {error}", hint=hint or "it takes the page alone") from error
    return given


def _converted(name: str, callback: Callable[..., Any], argument: str, text: str) -> Any:
    import msgspec

    try:
        kind = get_type_hints(callback).get(argument, str)
    except (NameError, TypeError):  # names that are imported for typing only
        return text
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"argument {argument}={text} of {name}: {error}", hint=f"--pass {argument}=VALUE"
        ) from error
    except TypeError:
        return text


# -- running it -----------------------------------------------------------------------------


async def _found(
    plan: Plan, url: str, callback: Callable[..., Any], given: dict[str, Any], *, quiet: bool
) -> Found:
    from crawler.errors import SpiderError
    from crawler.harvest import Harvest, describe
    from crawler.misses import Asked
    from crawler.node import watched
    from crawler.request import Request

    request = Request(url, callback, args=given)
    async with fetched(request, plan.spider, plan.settings, quiet=quiet) as (single, answer):
        if answer.page is None or answer.error is not None:
            return Found(answer, (), (), (), ())
        asked = Asked()
        with watched(asked):
            try:
                harvest = await single.harvest(answer.page, callback, request.args)
            except SpiderError as error:
                harvest = Harvest()
                harvest.errors.append(describe(error))
        links = single.judged(harvest.requests, answer.page)
    return Found(answer, harvest.items, links, asked.misses(), harvest.errors)


# -- showing --------------------------------------------------------------------------------


def _show(found: Found) -> None:
    tables: dict[str, list[ItemRow]] = {}
    for item in found.items:
        tables.setdefault(item.table, []).append(item)
    for name, items in tables.items():
        _head(f"{name}: {plural(len(items), 'item')}")
        _show_items(items)
    if not tables:
        _head("no items")
    _show_links(found.links)
    if found.misses:
        _head(f"{plural(len(found.misses), 'selector')} matched nothing")
        rows = [(miss.selector, miss.asked, miss.told) for miss in found.misses]
        _table(("selector", "asked", "where it stops"), rows)


def _head(text: str) -> None:
    click.echo(f"\n{printable(text)}")


def _show_items(items: Sequence[ItemRow]) -> None:
    """As a table; a single one field by field."""
    columns = list(dict.fromkeys(name for item in items for name in item.columns))
    values = [dict(zip(item.columns, item.values, strict=True)) for item in items]
    if len(items) == 1:
        _table(("field", "value"), list(values[0].items()))
    else:
        _table(columns, [[each.get(name) for name in columns] for each in values])


def _show_links(links: Sequence[Judged]) -> None:
    if not links:
        _head("no links")
        return
    followed = sum(link.refused is None for link in links)
    _head(f"{plural(len(links), 'link')}, {followed} of them followed")
    columns: dict[str, list[Any]] = {
        "callback": [_name(link) for link in links],
        "method": [link.request.method for link in links],
        "priority": [link.request.priority for link in links],
        "arguments": [_told(link.request.args) for link in links],
        "refused": [link.refused or "" for link in links],
        "url": [link.url for link in links],
    }
    usual = {"method": "GET", "priority": 0, "arguments": "", "refused": ""}
    names = [
        name
        for name, cells in columns.items()
        if name not in usual or any(cell != usual[name] for cell in cells)
    ]
    _table(names, list(zip(*(columns[name] for name in names), strict=True)))


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from crawler.cli.output import write_rows

    shown = rows[:SHOWN] if sys.stdout.isatty() else rows
    write_rows(sys.stdout, columns, shown, "table")
    if len(shown) < len(rows):
        click.echo(f"… {plural(len(rows) - len(shown), 'more row')}; --json has all of them")


def _name(link: Judged) -> str:
    callback = link.request.callback
    return "parse" if callback is None else callback.__name__


def _told(args: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in args.items())


def _judge(found: Found, spider: Spider) -> int:
    """Tell the errors; the exit code."""
    error = found.fetched.error
    if error is not None:
        tell_fetch_error(error, found.fetched.request.url, spider)
        return 1
    for row in found.errors:
        tell_error(row.message, frames=filter(None, (row.detail or "").splitlines()))
    return 1 if found.errors else 0


def _known(found: Found) -> dict[str, Any]:
    page, error = found.fetched.page, found.fetched.error
    items: dict[str, list[dict[str, Any]]] = {}
    for item in found.items:
        values = dict(zip(item.columns, item.values, strict=True))
        items.setdefault(item.table, []).append(values)
    errors = [
        {"code": row.code, "message": row.message, "detail": row.detail} for row in found.errors
    ]
    if error is not None:
        errors.append({"code": error.code, "message": str(error.args[0]), "detail": None})
    return {
        "url": page.url if page is not None else found.fetched.request.url,
        "status": page.status if page is not None else None,
        "items": items,
        "links": [
            {
                "url": link.url,
                "method": link.request.method,
                "callback": _name(link),
                "args": dict(link.request.args),
                "priority": link.request.priority,
                "refused": link.refused,
            }
            for link in found.links
        ],
        "misses": [
            {"selector": miss.selector, "asked": miss.asked, "told": miss.told}
            for miss in found.misses
        ],
        "errors": errors,
    }
