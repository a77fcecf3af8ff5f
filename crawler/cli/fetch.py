"""`crawler fetch`: one page, and how it travelled.

Owns: the options of the command, the request that they make. Does not own: fetching
(`crawler.single`), curl's commands (`crawler.curl`), showing the answer (`answers`).

Invariants: an option means what it means to curl; every mistake is told before any request.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from crawler.cli.answers import Form, tell
from crawler.cli.onepage import Telling, carried_out, check_scheme, settings_here
from crawler.errors import UsageError
from crawler.wording import printable

if TYPE_CHECKING:
    from crawler.attempts import Fetched
    from crawler.request import Request
    from crawler.settings import Settings
    from crawler.spider import Spider

__all__ = ["command"]


class Asked(NamedTuple):
    """What is to be fetched, and how."""

    request: Request
    settings: Settings
    spider: Spider | None


@click.command()
@click.argument("url", required=False)
@click.option("-X", "--request", "method", metavar="METHOD", help="GET, or POST with -d.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Sent.")
@click.option("-d", "--data", "data", multiple=True, metavar="DATA", help="Body; @FILE reads it.")
@click.option("-s", "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Setting.")
@click.option("--spider", "spider", metavar="NAME", help="With its settings and hooks.")
@click.option("-a", "--arg", "args", multiple=True, metavar="NAME=VALUE", help="Spider argument.")
@click.option("--text", "form", flag_value="text", help="The visible text, by lines.")
@click.option("--md", "form", flag_value="md", help="As Markdown, links absolute.")
@click.option("--json", "form", flag_value="json", help="Everything as one JSON object.")
@click.option("--curl", metavar="COMMAND", help="What a curl command asks for; -: from stdin.")
@click.option("--as-curl", is_flag=True, help="Print the curl command, fetch nothing.")
@click.option("-o", "--output", metavar="FILE", help="Write the body there; -: to stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Only the body and errors.")
def command(
    url: str | None,
    method: str | None,
    headers: tuple[str, ...],
    data: tuple[str, ...],
    sets: tuple[str, ...],
    spider: str | None,
    args: tuple[str, ...],
    form: Form | None,
    curl: str | None,
    as_curl: bool,
    output: str | None,
    quiet: bool,
) -> int:
    """Fetch one page as a crawl would, and tell how it travelled.

    Redirects are followed, robots.txt is obeyed, failures are tried again. The body goes to
    stdout where that is no terminal; all else to stderr. Exit code: 0 for a page that a
    crawl would deliver, 1 for any other answer and for none.
    """
    file = _writable(output)
    request, of_curl = _request(url, curl, method, headers, data)
    asked = _asked(request, of_curl, sets, spider, args)
    if as_curl:
        click.echo(_as_curl(asked))
        return 0
    fetched: Fetched = carried_out(_fetch(asked, quiet))
    return tell(fetched, form or "body", file, asked.spider, quiet, is_piped=output == "-")


# -- what is asked for ----------------------------------------------------------------------


def _writable(output: str | None) -> Path | None:
    if output is None or output == "-":
        return None
    file = Path(output)
    if file.exists():
        raise UsageError(f"{output} is there already", hint="name another file, or remove it")
    if not file.parent.is_dir():
        raise UsageError(f"{output} has no folder: {file.parent}", hint=f"mkdir -p {file.parent}")
    return file


def _request(
    url: str | None,
    command: str | None,
    method: str | None,
    headers: tuple[str, ...],
    data: tuple[str, ...],
) -> tuple[Request, tuple[str, ...]]:
    """The request, and what a curl command sets. Options of ours mean what curl's do."""
    from crawler.curl import parse, parse_words

    if (url is None) == (command is None):
        what = "neither a URL nor --curl" if url is None else "a URL and --curl"
        raise UsageError(f"{what} is given", hint="crawler fetch https://example.com/")
    more = [word for header in headers for word in ("-H", header)]
    more += [word for each in data for word in ("-d", each)]
    more += ["-X", method] if method else []
    if url is not None:
        check_scheme(url, "fetch")
        request, settings, notes = parse_words([*more, "--url", url, "-g"], _read)
    else:
        given = sys.stdin.read() if command == "-" else str(command)
        request, settings, notes = parse(given, _read)
        if more:
            over, _, noted = parse_words([*more, "--url", request.url, "-g"], _read)
            request, notes = _over(request, over, bool(data), method), (*notes, *noted)
    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)
    return request, settings


def _over(request: Request, over: Request, has_body: bool, method: str | None) -> Request:
    """A curl command's request, with what options of ours change."""
    kept = {name.lower(): (name, value) for name, value in (request.headers or {}).items()}
    kept |= {name.lower(): (name, value) for name, value in (over.headers or {}).items()}
    changed = request.replace(headers=dict(kept.values()))
    if has_body:
        changed = changed.replace(body=over.body, method=over.method)
    return changed.replace(method=method) if method else changed


def _read(name: str) -> bytes:
    return Path(name).read_bytes()


def _asked(
    request: Request,
    of_curl: tuple[str, ...],
    sets: tuple[str, ...],
    spider: str | None,
    args: tuple[str, ...],
) -> Asked:
    from crawler.layers import flag_layer

    flags = [flag_layer(of_curl, "--curl"), flag_layer(sets)]
    if spider is not None:
        from crawler.cli.plans import make_plan

        plan = make_plan(spider, args, [request.url], None, flags)
        return Asked(request, plan.settings, plan.spider)
    if args:
        raise UsageError("-a is an argument of a spider, and none is named", hint="--spider NAME")
    return Asked(request, settings_here(flags), None)


def _as_curl(asked: Asked) -> str:
    from crawler.curl import render
    from crawler.single import sent_as
    from crawler.urls import canonicalise

    request, headers = carried_out(sent_as(asked.request, asked.settings, asked.spider))
    flags = ["-L"] if "accept-encoding" in headers else ["-L", "--compressed"]
    wishes = asked.settings.for_domain(canonicalise(request.url).domain)
    if not wishes.verify:
        flags.append("-k")
    if request.proxy is None and wishes.proxies:
        request = request.replace(proxy=wishes.proxies[0])
    return render(request, headers=headers, flags=flags)


# -- fetching ---------------------------------------------------------------------------------


async def _fetch(asked: Asked, quiet: bool) -> Fetched:
    from crawler.single import Single

    telling = Telling(quiet)
    async with await Single.open(asked.spider, asked.settings, told=telling.told) as single:
        with telling.waiting(asked.request.url):
            return await single.fetch(asked.request)
