"""An answer on its way to a person or a program: which stream, which form.

Owns: head, connection and body of an answer as `crawler fetch` shows them, the JSON object.
Does not own: the lines of its requests and errors (`onepage`), text and Markdown (`plain`).

Invariants: data alone goes to stdout; nothing binary reaches a terminal unless it is forced;
the exit code is 0 exactly when a crawl would deliver the page.
"""

from __future__ import annotations

import shutil
import stat
import sys
from base64 import b64encode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

import click

from crawler.cli.onepage import json_of, tell_fetch_error
from crawler.errors import UsageError
from crawler.wording import plural, printable, size

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.response import Response
    from crawler.single import Attempt, Fetched
    from crawler.spider import Spider

__all__ = ["Form", "tell"]

HEAD_LINES = 20
"""Lines of a text that a terminal shows."""
Form = Literal["body", "text", "md", "json"]


def tell(
    fetched: Fetched,
    form: Form,
    file: Path | None,
    spider: Spider | None,
    *,
    quiet: bool,
    is_piped: bool,
) -> int:
    """Show an answer, write its body; the exit code. `file` None: to stdout, which `is_piped`
    forces to be taken for no terminal."""
    page, last = fetched.page, fetched.last
    if page is not None and last is not None and not quiet:
        _tell_head(page, last)
    if form == "json":
        _write(json_of(_known(fetched)).encode(), file)
    elif page is not None:
        _write_page(page, form, file, is_piped=is_piped)
    if fetched.error is None:
        return 0
    tell_fetch_error(fetched.error, fetched.request.url, spider)
    return 1


def _tell_head(page: Response, last: Attempt) -> None:
    """Status, header, whom it talked to on which connection, size, type and title."""
    from crawler.plain import title_of
    from crawler.urls import canonicalise

    outcome, info = last.outcome, last.outcome.connection
    known = page.status in HTTPStatus._value2member_map_
    version = info.http_version if info is not None else "HTTP"
    lines = ["", f"{version} {page.status} {HTTPStatus(page.status).phrase if known else ''}"]
    lines += [f"{name}: {value}" for name in page.headers for value in page.headers.get_all(name)]
    lines.append("")
    if info is not None:
        how = f"reused, request {info.nth} on it" if info.reused else "new connection"
        replays = f" · sent {info.replays + 1} times" if info.replays else ""
        client = f"client {outcome.generation} of {canonicalise(last.url).domain}"
        opened = f"{outcome.open_connections} open"
        lines.append(f"{info.peer} · {version} · {how}{replays} · {client}, {opened}")
    kind = (page.content_type or "").partition(";")[0].strip() or "no type"
    parts = [size(len(page.body)), kind, page.encoding]
    if coding := page.headers.get("content-encoding"):
        parts.append(f"{coding}: {size(outcome.bytes_received)} on the wire")
    if title := title_of(page):
        parts.append(f"“{title}”")
    lines.append(printable(" · ".join(filter(None, parts)), 200))
    for line in lines:
        click.echo(printable(line).rstrip(), err=True)


def _write_page(page: Response, form: Form, file: Path | None, *, is_piped: bool) -> None:
    from crawler.plain import is_textual, markdown_of, text_of

    is_shown = file is None and not is_piped and sys.stdout.isatty()
    if form != "body":
        text = markdown_of(page) if form == "md" else f"{text_of(page)}\n"
        _write(_safe(text) if is_shown else text.encode("utf-8", "replace"), file)
    elif not is_shown:
        _write(page.body, file)
    elif not is_textual(page):
        click.echo("no text: -o FILE writes it, -o - forces it to the terminal", err=True)
    elif page.body:
        _show_head(page.text)


def _show_head(text: str) -> None:
    """The first lines of a text, as wide as the terminal."""
    width = shutil.get_terminal_size().columns
    lines = text.splitlines()
    click.echo("", err=True)
    for line in lines[:HEAD_LINES]:
        click.echo(printable(line, width))
    if len(lines) > HEAD_LINES:
        more = plural(len(lines) - HEAD_LINES, "more line")
        click.echo(f"… {more}; -o FILE writes all, --text shows what is visible", err=True)


def _safe(text: str) -> bytes:
    return "".join(f"{printable(line)}\n" for line in text.splitlines()).encode("utf-8", "replace")


def _write(content: bytes, file: Path | None) -> None:
    if file is None:
        sys.stdout.buffer.write(content)
        return
    try:
        is_new = not file.exists() or stat.S_ISREG(file.stat().st_mode)
        with file.open("xb" if is_new else "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise UsageError(
            f"{file} cannot be written: {error.strerror}", hint="name another file"
        ) from error


def _known(fetched: Fetched) -> dict[str, Any]:
    """All that is known; attempts have the columns of the table `fetches`."""
    from crawler.plain import is_textual, title_of
    from crawler.request import encode_body

    page, error, asked = fetched.page, fetched.error, fetched.request
    is_text = page is not None and is_textual(page)
    return {
        "url": page.url if page is not None else asked.url,
        "status": page.status if page is not None else None,
        "error": None if error is None else {"code": error.code, "message": error.args[0]},
        "title": (title_of(page) if page is not None else "") or None,
        "headers": {} if page is None else _fields(page),
        "request": {
            "method": asked.method,
            "url": asked.url,
            "headers": dict(asked.headers or {}),
            "bytes": len(encode_body(asked).content),
        },
        "attempts": [each.row for each in fetched.attempts],
        "body": page.text if page is not None and is_text else None,
        "body_base64": None if page is None or is_text else b64encode(page.body).decode(),
    }


def _fields(page: Response) -> dict[str, str | list[str]]:
    fields = {name: page.headers.get_all(name) for name in page.headers}
    return {name: each[0] if len(each) == 1 else each for name, each in fields.items()}
