"""`crawler list`: the spiders that can be run, and what they can be told.

Owns: arguments in words, what is said of files that are broken. Does not own: finding
spiders (`loading`), what an argument may be (`spider`).

Invariants: a broken file hides no other spider; the exit code is 2 while one is broken.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

import click

from crawler.cli.output import output_options, write_rows
from crawler.cli.voice import say, tell_error
from crawler.errors import SpiderLoadError
from crawler.loading import listing, twins
from crawler.wording import printable

if TYPE_CHECKING:
    from crawler.cli.output import Form
    from crawler.loading import Found
    from crawler.spider import Spider

__all__ = ["Argument", "arguments_of", "command"]

EXIT_BROKEN = 2


class Argument(NamedTuple):
    """One argument of a spider."""

    name: str
    type: str
    default: Any
    """None where `is_required`."""
    is_required: bool

    def told(self) -> str:
        """As a person reads it: `max_pages: int = 0`, `shelf: str`."""
        default = f" = {self.default!r}" if not self.is_required else ""
        return f"{self.name}: {self.type}{default}"


@click.command("list")
@output_options
def command(form: Form) -> int:
    """List the spiders in spiders/ and the bundled ones, with their arguments.

    Files that cannot be imported are told on stderr and hide nothing; the exit code is 2
    then.
    """
    known = listing()
    is_plain = form in ("table", "csv")
    rows, broken = [], [(each.told(), each.hint) for each in known.broken]
    for found in sorted(known.spiders, key=lambda found: (found.name, found.file)):
        try:
            arguments = arguments_of(found.spider)
        except SpiderLoadError as error:
            broken.append((f"{found.file}: {error}", error.hint or "correct the file"))
            continue
        told = "; ".join(argument.told() for argument in arguments)
        shown = told if is_plain else [_as_json(argument) for argument in arguments]
        rows.append((found.name, _place(found), shown, found.summary))
    write_rows(sys.stdout, ("name", "file", "arguments", "summary"), rows, form)
    if not known.files and form == "table":
        click.echo("no file in spiders/ here: `crawler new NAME` makes one", err=True)
    for told in twins(known):
        say(f"warning: {printable(told)}", event="warning", level="warning")
    for reason, hint in broken:
        tell_error(reason, hint=hint)
    return EXIT_BROKEN if broken else 0


def arguments_of(spider: type[Spider]) -> list[Argument]:
    """The arguments in the order in which they are declared.

    Raises SpiderLoadError where their annotations cannot be read.
    """
    return [
        Argument(name, _words(hint), getattr(spider, name, None), not hasattr(spider, name))
        for name, hint in spider._declared().items()
    ]


def _words(hint: Any) -> str:
    """A type as a person reads it: `int`, `host|site`, `str | None`."""
    if get_origin(hint) is Literal:
        return "|".join(str(value) for value in get_args(hint))
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(hint))


def _as_json(argument: Argument) -> dict[str, Any]:
    default = argument.default
    is_plain = default is None or isinstance(default, bool | int | float | str | list | dict)
    return argument._asdict() | {"default": default if is_plain else repr(default)}


def _place(found: Found) -> str:
    return "bundled" if found.is_bundled else str(found.file)
