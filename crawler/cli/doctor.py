"""`crawler doctor`: is this machine fit to crawl, and this folder, and can HOST be reached?

Owns: their form, the exit code. Does not own: the checks (`findings`, `probe`).

Invariants: nothing is sent unless a HOST is named; one failure is an exit code of 1.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crawler.cli.output import write_rows
from crawler.cli.paragraphs import Line, say
from crawler.errors import UsageError

if TYPE_CHECKING:
    from crawler.settings import Settings

__all__ = ["command"]

EXIT_FAILED = 1


@click.command()
@click.argument("host", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(host: str | None, as_json: bool) -> int:
    """Check versions, limits, certificates, names, disk and project: one line each.

    With HOST (or a URL) also whether it can be reached, and how long that takes; only
    then anything is sent.
    """
    from crawler.cli.findings import about_here

    settings = _settings()
    url = _url(host) if host is not None else None
    verdicts = [*about_here(settings, Path())]
    if url is not None:
        from crawler.cli.probe import about_host

        verdicts += about_host(url, settings)
    if as_json:
        write_rows(sys.stdout, ("state", "check", "found", "advice"), verdicts, "json")
    else:
        width = max(len(each.name) for each in verdicts)
        say(
            Line(f"{state:4}  {name:{width}}  ", f"{found}  → {advice}" if advice else found)
            for state, name, found, advice in verdicts
        )
    return EXIT_FAILED if any(each.state == "fail" for each in verdicts) else 0


def _settings() -> Settings:
    """Those of the project; the defaults where they are wrong, which a check tells."""
    from crawler.layers import environment_layer, file_layers, resolve
    from crawler.settings import Settings

    try:
        return resolve([*file_layers(Path()), environment_layer(os.environ)])
    except UsageError:
        return Settings()


def _url(host: str) -> str:
    """What to ask HOST for: its robots.txt, which anybody may. Raises UsageError.

    Without a scheme it is https, and http on this machine and its network.
    """
    from crawler.errors import FetchError
    from crawler.urls import canonicalise, is_private

    try:
        target = canonicalise(host if "://" in host else f"https://{host}")
        if "://" not in host and is_private(target.domain):
            target = canonicalise(f"http://{host}")
    except FetchError as error:
        hint = "crawler doctor example.com, or a URL: crawler doctor http://localhost:8000"
        raise UsageError(f"`{host}` is no host", hint=hint) from error
    return f"{target.origin}/robots.txt"
