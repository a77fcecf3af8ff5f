"""Where items are to go: what `-o` names, and whether that may be written.

Owns: `FILE`, `NAME=FILE` and `-`; the form that an ending means; what is refused before
anything is done. Does not own: writing (`feeds`, `export`).

Invariants: a file that is there is never replaced or added to unasked; no two outputs are
one file; the database is no output.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from crawler.cli.output import FORMS, way_of
from crawler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.cli.output import Form

__all__ = ["Sink", "check_folder", "form_of", "parse_sinks", "refuse_existing"]

STDOUT = "-"
_NAMED = re.compile(r"(?P<table>[^\W_][^=/\\.~]*)=(?P<file>.+)", re.DOTALL).fullmatch
_ENDINGS = "end it in .csv, .json, .jsonl or .ndjson"


class Sink(NamedTuple):
    """One place that items go to."""

    spelled: str
    """As it was given."""
    table: str | None
    """The item table; None: as the form has it."""
    file: Path | None
    """None: stdout."""
    form: Form


def parse_sinks(
    given: Sequence[str], *, form: Form | None = None, table: str | None = None
) -> list[Sink]:
    """What `-o` names; `form` and `table` are what other options say. Raises UsageError."""
    sinks = [_parse(each, form, table) for each in given]
    places = [os.path.realpath(sink.file) if sink.file else STDOUT for sink in sinks]
    for n, place in enumerate(places):
        if place in places[:n]:
            raise UsageError(f"-o {sinks[n].spelled} is given twice", hint="leave one of them out")
    return sinks


def form_of(file: Path | None, hint: str = _ENDINGS) -> Form:
    """The form that a file's ending says; stdout (None) gets JSON lines.

    Raises UsageError, with this hint, for another ending.
    """
    if file is None:
        return "jsonl"
    form = FORMS.get(file.suffix.lower())
    if form is None:
        raise UsageError(f"{file} does not say its form", hint=hint)
    return form


def check_folder(file: Path, database: Path) -> None:
    """Raise UsageError for a file that could not be made, or is none."""
    if os.path.realpath(file) == os.path.realpath(database):
        raise UsageError(f"{file} is the database", hint="name another file")
    if file.exists() and not file.is_file():
        kind = "a folder" if file.is_dir() else "no plain file"
        raise UsageError(f"{file} is {kind}", hint="name a file, or `-` for stdout")
    folder = Path(os.path.realpath(file)).parent
    if not folder.is_dir():
        raise UsageError(
            f"{file} has no folder: {folder if file.is_symlink() else file.parent}",
            hint=f"mkdir -p {shlex.quote(str(file.parent))}",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"{file}: the folder may not be written", hint=f"name another one: -o ~/{file.name}"
        )
    if file.exists() and not os.access(file, os.W_OK):
        raise UsageError(f"{file} may not be written", hint="name another file")


def refuse_existing(
    file: Path, form: Form, *, can_append: bool = True, of: str | None = None
) -> None:
    """Raise UsageError for a file that is there; `of`: the run that wrote one of this name."""
    if os.path.lexists(file):
        more = ", --append adds to it" if can_append and form != "json" else ""
        raise UsageError(
            f"{file} is not as {of} left it" if of else f"{file} is there already",
            hint=f"-O (--overwrite) replaces it{more}; or name another",
        )


def _parse(given: str, form: Form | None, table: str | None) -> Sink:
    named = None if Path(given).exists() else _NAMED(given)
    if named is not None:
        if table is not None and named["table"].lower() != table.lower():
            raise UsageError(
                f"-o {given} names a table, and --table {table} another one",
                hint="give one of them",
            )
        table = named["table"]
    place = named["file"] if named else given
    if not place.strip():
        raise UsageError("-o names no file", hint="-o items.jsonl")
    file = None if place == STDOUT else Path(place)
    if form is not None and file is not None and FORMS.get(file.suffix.lower(), form) != form:
        way = way_of(form)
        raise UsageError(
            f"-o {given} ends in {file.suffix}, and {way} says another form",
            hint=f"leave {way} out, or name another file",
        )
    return Sink(given, table, file, form or form_of(file))
