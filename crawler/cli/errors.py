"""`crawler errors`: what went wrong in a run, by cause and domain, and what to do about it.

Owns: how causes and cases are shown. Does not own: which they are (`failures`).

Invariants: without a filter only counters are read; text from the web is made printable.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import click

from crawler.cli.output import Form, data_options, form_option, write_rows
from crawler.cli.paragraphs import Line, frames, next_lines, say
from crawler.cli.places import check_names, db_option, locate_run, target_argument
from crawler.commands import command as command_of
from crawler.commands import target_of
from crawler.errors import UsageError, advice, code_of
from crawler.failures import Case, cases, causes, fold, groups
from crawler.rows import pairs
from crawler.wording import count, plural, printable
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.cli.places import Run
    from crawler.failures import Failure, Fold

__all__ = ["command"]

DOMAINS = 3
"""Domains of a cause that are named."""
FOLDS = 20
URLS = 10
"""Cases that say the same, of which the URLs are listed."""
ABOVE = ("code", "domain", "count", "meaning", "hint", "last_at", "message", "url", "detail")


@click.command()
@target_argument
@db_option
@click.option("--code", metavar="CODE", help="Case by case, of this code, e.g. http-404.")
@click.option("--domain", metavar="HOST", help="Case by case, of this domain.")
@form_option("--table", meaning="As a table.")
@data_options
def command(
    target: str | None, db: str | None, code: str | None, domain: str | None, form: Form | None
) -> None:
    """What failed in a run, by cause, the most frequent first, and what to do about it.

    With --code or --domain: the URLs, and what was said of each. Errors that were queued
    again by `crawler requeue` are no longer among them.
    """
    run = locate_run(target, db)
    is_narrow = code is not None or domain is not None
    with Reader(run.file) as reader:
        found = causes(reader, run.id, code=code, domain=domain)
        if not found:
            check_names(reader, run.id, code=code, domain=domain)
        if is_narrow and reader.is_older:
            hint = "the next `crawler run` upgrades the file; without --code and --domain it works"
            raise UsageError(f"{run.file} was written by an older version", hint=hint)
        one_by_one = cases(reader, run.id, code=code, domain=domain) if is_narrow else None
        if form is not None and one_by_one is not None:
            names = [field.name for field in dataclasses.fields(Case)]
            write_rows(sys.stdout, names, map(dataclasses.astuple, one_by_one), form)
            return
        if form is not None:
            write_rows(sys.stdout, ABOVE, _above(reader, run), form)
            return
        folds = fold(one_by_one, URLS) if one_by_one is not None else None
        blocks = [
            _told(reader, run, each) if folds is None else _listed(run, each, folds[each.code])
            for each in found
        ]
    only = f" of code {code}" if code is not None else ""
    only += f" on {domain}" if domain is not None else ""
    if not found:
        click.echo(printable(f"{run.id} has no errors{only}"))
        return
    total = plural(sum(each.count for each in found), "error")
    click.echo(printable(f"{run.id} in {run.file}: {total}{only}"))
    say(line for block in blocks for line in block)
    say([Line(""), *next_lines(_next(found[0], run, is_narrow))])


def _above(reader: Reader, run: Run) -> list[list[object]]:
    """By code and domain, for programs."""
    rows = groups(reader, run.id)
    for row in rows:
        known = code_of(row["code"])
        hint = _hint(run, row["code"], row["url"], row["domain"])
        row.update(meaning=known.meaning if known else "", hint=hint)
    return [[row[name] for name in ABOVE] for row in rows]


def _hint(run: Run, code: str, url: str | None, domain: str | None) -> str:
    spider = target_of(run.row)
    return advice(code, url=url, host=domain, spider=spider, place=run.words, shown="errors")


# -- for people ---------------------------------------------------------------------------


def _head(each: Failure) -> list[Line]:
    known = code_of(each.code)
    meaning = f"  {known.meaning}" if known else ""
    return [Line(""), Line("", f"{each.code} ×{count(each.count)}{meaning}")]


def _told(reader: Reader, run: Run, each: Failure) -> list[Line]:
    """A cause in a few lines."""
    lines = [*_head(each), Line("  where  ", _domains(reader, run.id, each))]
    if each.code == "domain-unreachable":
        lines.append(Line("  urls   ", f"{plural(_gone(reader, run.id), 'URL')} failed with it"))
    said = [each.message] if each.url in each.message else [each.message, each.url]
    lines.append(Line("  last   ", ", ".join(filter(None, said))))
    lines += [Line("         ", row, False) for row in frames(each.detail)]
    if hint := _hint(run, each.code, each.url, each.domain):
        lines.append(Line("  do     ", hint))
    return [line for line in lines if line.text or not line.label]


def _domains(reader: Reader, run: str, each: Failure) -> str:
    sql = (
        "SELECT domain, count FROM v_errors WHERE run = ? AND code = ?"
        f" ORDER BY count DESC, domain LIMIT {DOMAINS}"
    )
    named = pairs(reader, sql, run, each.code)
    parts = [f"{name} {count(number)}" for name, number in named if name]
    more = each.domains - len(named)
    return " · ".join(parts) + (f" · {plural(more, 'domain')} more" if more > 0 else "")


def _gone(reader: Reader, run: str) -> int:
    """URLs that failed with the domains that could not be reached."""
    sql = (
        "SELECT coalesce(sum(failed), 0) FROM domains WHERE run = ?1 AND domain IN (SELECT domain"
        " FROM v_errors WHERE run = ?1 AND code = 'domain-unreachable')"
    )
    return int(reader.query(sql, (run,))[1][0][0])


def _listed(run: Run, each: Failure, folds: Sequence[Fold]) -> list[Line]:
    """A cause case by case, those that say the same as one."""
    lines = _head(each)
    for one in folds[:FOLDS]:
        lines.append(Line(f"  ×{count(one.count)}  ", one.message or "nothing was said"))
        lines += [Line("      ", row, False) for row in frames(one.detail)]
        lines += [Line("      ", url) for url in one.urls]
        more = one.count - len(one.urls)
        if more > 0 and one.urls:
            lines.append(Line("      ", f"… {count(more)} more: --nl has all"))
    if len(folds) > FOLDS:
        lines.append(Line("  ", f"… {count(len(folds) - FOLDS)} other messages: --nl has all"))
    if hint := _hint(run, each.code, each.url, each.domain):
        lines.append(Line("  do  ", hint))
    return lines


def _next(worst: Failure, run: Run, is_narrow: bool) -> list[str]:
    commands = [] if is_narrow else [command_of("errors", *run.words, "--code", worst.code)]
    if worst.url:
        commands.append(command_of("why", worst.url, *run.words))
    return [*commands, command_of("requeue", *run.words, "--code", worst.code)]
