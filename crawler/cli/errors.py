"""`crawler errors`: what went wrong in a run, by cause and domain, and what to do about it.

Owns: how groups and cases are shown. Does not own: which they are (`failures`).

Invariants: without a filter only counters are read; text from the web is made printable.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import click

from crawler.cli.output import Form, data_options, write_rows
from crawler.cli.paragraphs import Line, next_lines, say
from crawler.cli.places import db_option, locate, refuse_unknown, target_argument
from crawler.commands import command as command_of
from crawler.commands import place_of
from crawler.errors import UsageError, code_of
from crawler.failures import Case, cases, fold, group, groups
from crawler.wording import count, plural, printable
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.failures import Fold, Group

__all__ = ["command"]

DOMAINS = 3
"""Domains that a group names."""
FOLDS = 20
URLS = 10
"""Cases that say the same, of which the URLs are listed."""
ABOVE = ("code", "domain", "count", "meaning", "hint", "last_at", "message", "url", "detail")


@click.command()
@target_argument
@db_option
@click.option("--code", metavar="CODE", help="Case by case, of this code, e.g. http-404.")
@click.option("--domain", metavar="HOST", help="Case by case, of this domain.")
@click.option("--table", "form", flag_value="table", help="As a table.")
@data_options
def command(
    target: str | None, db: str | None, code: str | None, domain: str | None, form: Form | None
) -> None:
    """What failed in a run, by cause, the most frequent first, and what to do about it.

    With --code or --domain: the URLs, and what was said of each. Errors that were queued
    again by `crawler requeue` are no longer among them.
    """
    place = locate(target, db)
    if place.run is None:
        raise UsageError(f"{place.file} has no run yet", hint="`crawler run SPIDER`")
    with Reader(place.file) as reader:
        spider = place.run.rpartition("-")[0]
        there = place_of(place.run, spider, str(place.file))
        rows = groups(reader, place.run, code=code, domain=domain)
        if not rows:
            _check(reader, place.run, code, domain)
        is_narrow = code is not None or domain is not None
        if is_narrow and reader.is_older:
            hint = "the next `crawler run` upgrades the file; without --code and --domain it works"
            raise UsageError(f"{place.file} was written by an older version", hint=hint)
        if form is not None:
            _write(reader, place.run, rows, form, code=code, domain=domain, is_narrow=is_narrow)
            return
        gone = _failed(reader, place.run) if rows else {}
        found = group(rows, gone, spider)
        if not found:
            click.echo(f"{place.run} has no errors{_narrowed(code, domain)}")
            return
        total = sum(each.count for each in found)
        click.echo(
            f"{place.run} in {place.file}: {plural(total, 'error')}{_narrowed(code, domain)}"
        )
        narrowed = cases(reader, place.run, code=code, domain=domain) if is_narrow else ()
        folds = fold(narrowed, URLS)
        for each in found:
            say(_told(each) if not is_narrow else _listed(each, folds))
    say([Line(""), *next_lines(_next(found, there, is_narrow))])


def _check(reader: Reader, run: str, code: str | None, domain: str | None) -> None:
    """Nothing fits: raise UsageError where a name is not one of the run's."""
    if code is not None and code_of(code) is None:
        refuse_unknown("error code", code, (row["code"] for row in groups(reader, run)), run)
    if domain is not None:
        _, known = reader.query("SELECT domain FROM domains WHERE run = ?", (run,))
        refuse_unknown("domain", domain, (name for (name,) in known), run)


def _failed(reader: Reader, run: str) -> dict[str, int]:
    """Failed URLs by domain."""
    _, rows = reader.query("SELECT domain, failed FROM domains WHERE run = ? AND failed", (run,))
    return dict(rows)


def _narrowed(code: str | None, domain: str | None) -> str:
    named = f" of code {code}" if code is not None else ""
    return printable(named + (f" on {domain}" if domain is not None else ""))


# -- for programs -------------------------------------------------------------------------


def _write(
    reader: Reader,
    run: str,
    rows: Sequence[dict[str, object]],
    form: Form,
    *,
    code: str | None,
    domain: str | None,
    is_narrow: bool,
) -> None:
    if is_narrow:
        names = [field.name for field in dataclasses.fields(Case)]
        found = cases(reader, run, code=code, domain=domain)
        write_rows(sys.stdout, names, (dataclasses.astuple(case) for case in found), form)
        return
    spider = run.rpartition("-")[0]
    for row in rows:
        (own,) = group([row], {}, spider)
        row.update(meaning=own.meaning, hint=own.hint)
    write_rows(sys.stdout, ABOVE, ([row[name] for name in ABOVE] for row in rows), form)


# -- for people ---------------------------------------------------------------------------


def _head(each: Group) -> list[Line]:
    meaning = f"  {each.meaning}" if each.meaning else ""
    return [Line(""), Line("", f"{each.code} ×{count(each.count)}{meaning}")]


def _told(each: Group) -> list[Line]:
    """A group in a few lines."""
    lines = _head(each)
    if domains := _domains(each.domains):
        lines.append(Line("  where  ", domains))
    if each.gone:
        lines.append(Line("  urls   ", f"{plural(each.gone, 'URL')} failed with it"))
    if each.message or each.url:
        lines.append(Line("  last   ", _last(each.message, each.url)))
    lines += _frames(each.detail, "         ")
    if each.hint:
        lines.append(Line("  do     ", each.hint))
    return lines


def _listed(each: Group, folds: Sequence[Fold]) -> list[Line]:
    """A group case by case, those that say the same as one."""
    lines = _head(each)
    own = [one for one in folds if one.code == each.code]
    for one in own[:FOLDS]:
        lines.append(Line(f"  ×{count(one.count)}  ", one.message or "nothing was said"))
        lines += _frames(one.detail, "      ")
        lines += [Line("      ", url) for url in one.urls]
        more = one.count - len(one.urls)
        if more > 0 and one.urls:
            lines.append(Line("      ", f"… {count(more)} more: --nl has all"))
    if len(own) > FOLDS:
        lines.append(Line("  ", f"… {count(len(own) - FOLDS)} other messages: --nl has all"))
    if each.hint:
        lines.append(Line("  do  ", each.hint))
    return lines


def _domains(named: Sequence[tuple[str, int]]) -> str:
    parts = [f"{name} {count(number)}" for name, number in named[:DOMAINS] if name]
    more = len(named) - DOMAINS
    return " · ".join(parts) + (f" · {plural(more, 'domain')} more" if more > 0 else "")


def _last(message: str, url: str | None) -> str:
    if url is None or url in message:
        return message
    return f"{message}, {url}" if message else url


def _frames(detail: str | None, margin: str) -> list[Line]:
    return [Line(margin, line, False) for line in (detail or "").rstrip().splitlines()]


def _next(found: Sequence[Group], place: Sequence[str], is_narrow: bool) -> list[str]:
    worst = found[0]
    commands = [] if is_narrow else [command_of("errors", *place, "--code", worst.code)]
    if worst.url is not None:
        commands.append(command_of("why", worst.url, *place))
    commands.append(command_of("requeue", *place, "--code", worst.code))
    return commands
