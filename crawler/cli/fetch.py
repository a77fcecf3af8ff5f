"""`crawler fetch`: one page, and how it travelled.

Owns: the options of the command, the request that they make. Does not own: fetching
(`crawler.single`), curl's options (`crawler.curl`), showing the answer (`answers`).

Invariants: an option means what it means to curl; every mistake is told before any request.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from crawler.cli.answers import Form, tell
from crawler.cli.onepage import carried_out, check_scheme, fetched, read_stdin, settings_here
from crawler.errors import UsageError
from crawler.wording import printable

if TYPE_CHECKING:
    from crawler.curl import Parsed
    from crawler.request import Request
    from crawler.settings import Settings
    from crawler.single import Fetched
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
@click.option(
    "-s",
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Setting, e.g. -s domain.delay=2; may be repeated.",
)
@click.option("--spider", "spider", metavar="NAME", help="With its settings and hooks.")
@click.option(
    "-a",
    "--arg",
    "args",
    multiple=True,
    metavar="NAME=VALUE",
    help="Spider argument, e.g. -a shelf=poetry; may be repeated.",
)
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
    """Fetch one page as a crawl would, and tell how it travelled. URL may be left out where
    --curl has it.

    Redirects are followed, robots.txt is obeyed, failures are tried again. The body goes to
    stdout where that is no terminal; all else to stderr. Exit code: 0 for a page that a
    crawl would deliver, 1 for any other answer and for none.
    """
    file = _writable(output)
    own = [word for header in headers for word in ("-H", header)]
    own += [word for each in data for word in ("-d", each)]
    own += ["-X", method] if method else []
    asked = _asked(_parsed(url, curl, own), sets, spider, args)
    if as_curl:
        click.echo(_as_curl(asked))
        return 0
    found = carried_out(_fetch(asked, quiet=quiet))
    form, is_piped = form or "body", output == "-"
    return tell(found, form, file, asked.spider, quiet=quiet, is_piped=is_piped)


# -- what is asked for ----------------------------------------------------------------------


def _writable(output: str | None) -> Path | None:
    if output is None or output == "-":
        return None
    file = Path(output)
    if file.is_file() or file.is_dir():
        raise UsageError(f"{output} is there already", hint="name another file, or remove it")
    if not file.parent.is_dir():
        raise UsageError(f"{output} has no folder: {file.parent}", hint=f"mkdir -p {file.parent}")
    return file


def _parsed(url: str | None, command: str | None, own: list[str]) -> Parsed:
    """The request. Options of ours mean what curl's do: as if they stood in its command."""
    from crawler.curl import arguments, parse

    if (url is None) == (command is None):
        what = "neither a URL nor --curl" if url is None else "a URL and --curl"
        raise UsageError(f"{what} is given", hint="crawler fetch https://example.com/")
    if command == "-":
        command = read_stdin().decode("utf-8", "surrogateescape")
    if url is not None:
        check_scheme(url, "fetch")
        words = ["-g", "--url", url]
    else:
        words = arguments(str(command))
    parsed = parse([*words, *own], lambda name: Path(name).read_bytes())
    for note in parsed.notes:
        click.echo(f"note: {printable(note)}", err=True)
    return parsed


def _asked(
    parsed: Parsed, sets: tuple[str, ...], spider: str | None, args: tuple[str, ...]
) -> Asked:
    from crawler.layers import flag_layer
    from crawler.urls import canonicalise

    request = parsed.request
    flags = [flag_layer(sets)]
    if parsed.is_insecure:
        host = canonicalise(request.url).domain
        flags.insert(0, flag_layer([f'domains."{host}".verify=false'], "--curl"))
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


async def _fetch(asked: Asked, *, quiet: bool) -> Fetched:
    async with fetched(asked.request, asked.spider, asked.settings, quiet=quiet) as (_, found):
        return found
