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

from crawler.cli.onepage import Telling, carried_out, check_scheme
from crawler.errors import UsageError, nearest
from crawler.wording import plural, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crawler.attempts import Fetched
    from crawler.cli.plans import Plan
    from crawler.misses import Miss
    from crawler.request import Request
    from crawler.single import Judged
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
@click.option("-a", "--arg", "args", multiple=True, metavar="NAME=VALUE", help="Spider argument.")
@click.option("-s", "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Setting.")
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
    request = _request(url, called, _arguments(plan.spider, called, passed))
    found: Found = carried_out(_parsed(plan, request, called, quiet))
    if as_json:
        sys.stdout.write(_as_json(found))
    elif found.fetched.error is None:
        _show(found)
    return _judge(found, plan.spider)


# -- what is called -------------------------------------------------------------------------


def _callback(spider: Spider, name: str) -> Callable[..., Any]:
    from crawler.spider import Spider

    kind = type(spider)
    known = [
        each
        for each in dir(kind)
        if not each.startswith("_")
        and inspect.isfunction(inspect.getattr_static(kind, each))
        and (each == "parse" or not hasattr(Spider, each))
    ]
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
    name = f"{spider.name}.{callback.__name__}"
    wanted = dict(list(inspect.signature(callback).parameters.items())[1:])
    takes_any = any(each.kind is each.VAR_KEYWORD for each in wanted.values())
    known = [
        each.name
        for each in wanted.values()
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    given: dict[str, Any] = {}
    for pair in passed:
        argument, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"argument `{pair}` is not NAME=VALUE", hint="--pass shelf=poetry")
        if argument not in known and not takes_any:
            best = nearest(argument, known)
            listed = f"it takes: {', '.join(known)}" if known else "it takes none beside the page"
            hint = f"did you mean `--pass {best}=…`?" if best else listed
            raise UsageError(f"{name} has no argument `{argument}`", hint=hint)
        given[argument] = _converted(name, callback, argument, text)
    for argument in known:
        if argument not in given and wanted[argument].default is inspect.Parameter.empty:
            raise UsageError(
                f"{name} needs the argument {argument}", hint=f"--pass {argument}=VALUE"
            )
    return given


def _request(url: str, callback: Callable[..., Any], given: dict[str, Any]) -> Request:
    from crawler.errors import SpiderError
    from crawler.request import Request

    try:
        return Request(url, callback, args=given)
    except SpiderError as error:
        raise UsageError(str(error), hint="a crawl could not store it either") from error


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


async def _parsed(plan: Plan, request: Request, callback: Callable[..., Any], quiet: bool) -> Found:
    from crawler.errors import SpiderError
    from crawler.harvest import Harvest, describe
    from crawler.misses import Asked
    from crawler.node import watched
    from crawler.single import Single

    telling, asked = Telling(quiet), Asked()
    async with await Single.open(plan.spider, plan.settings, told=telling.told) as single:
        with telling.waiting(request.url):
            fetched = await single.fetch(request)
        if fetched.page is None or fetched.error is not None:
            return Found(fetched, (), (), (), ())
        with watched(asked):
            try:
                harvest = await single.harvest(fetched.page, callback, request.args)
            except SpiderError as error:
                harvest = Harvest()
                harvest.errors.append(describe(error))
        links = single.judged(harvest.requests, fetched.page)
    return Found(fetched, harvest.items, links, asked.misses(), harvest.errors)


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
    from crawler.cli.travel import hint_of

    error = found.fetched.error
    if error is not None:
        click.echo(printable(f"error: {error}"), err=True)
        if hint := hint_of(error, found.fetched.request.url, spider=spider.name):
            click.echo(f"  hint: {printable(hint)}", err=True)
        return 1
    for row in found.errors:
        click.echo(printable(f"error: {row.message}"), err=True)
        for line in (row.detail or "").rstrip().splitlines():
            click.echo(printable(line), err=True)
    return 1 if found.errors else 0


def _as_json(found: Found) -> str:
    import msgspec

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
    known = {
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
            {
                "selector": miss.selector,
                "asked": miss.asked,
                "steps": [step._asdict() for step in miss.steps],
                "near": miss.near.selector if miss.near is not None else None,
            }
            for miss in found.misses
        ],
        "errors": errors,
    }
    return msgspec.json.encode(known).decode() + "\n"
