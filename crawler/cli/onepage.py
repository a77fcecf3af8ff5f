"""What `fetch`, `shell` and `parse` share: one page that a person asks for.

Owns: what a URL must look like, the settings without a spider, telling what happens while
it happens, what a spider's hook raised. Does not own: fetching (`crawler.single`).

Invariants: nothing is said on stdout; a person is not left without news for long.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crawler.errors import SpiderError, UsageError
from crawler.wording import printable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from crawler.attempts import Attempt
    from crawler.layers import Layer
    from crawler.settings import Settings

__all__ = ["Telling", "carried_out", "check_scheme", "settings_here"]

SILENCE_S = 5.0
"""Seconds without news after which a person is told what is waited for."""


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


def carried_out(work: Coroutine[Any, Any, Any]) -> Any:
    """The answer of a coroutine. What a spider's hook raised is told, and ends the command
    with exit code 1."""
    from crawler.crawling import run_loop
    from crawler.harvest import describe

    try:
        return run_loop(work)
    except SpiderError as error:
        told = describe(error)
        click.echo(printable(f"error: {told.message}"), err=True)
        for text in (told.detail or "", *getattr(error, "__notes__", ())):
            for line in text.rstrip().splitlines():
                click.echo(printable(line), err=True)
        raise click.exceptions.Exit(1) from error


class Telling:
    """Writes each request to stderr when it has ended, and what is waited for."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._url = ""

    def __repr__(self) -> str:
        return f"<Telling {self._url or 'nothing yet'}>"

    def told(self, attempt: Attempt) -> None:
        """A request has ended."""
        if self._quiet:
            return
        from crawler.cli.travel import request_line, result_line

        line = request_line(attempt)
        if line != self._url:
            click.echo(line, err=True)
        self._url = line
        click.echo(f"  {result_line(attempt)}", err=True)

    @contextlib.contextmanager
    def waiting(self, url: str) -> Iterator[None]:
        """Tell once what takes so long."""
        text = f"still waiting for {printable(url)}, or for its domain's pace; Ctrl-C ends it"
        import asyncio

        loop = asyncio.get_running_loop()
        timer = loop.call_later(SILENCE_S, partial(click.echo, text, err=True))
        if self._quiet:
            timer.cancel()
        try:
            yield
        finally:
            timer.cancel()
