"""An answer on its way to a person or a program: which stream, which form.

Owns: head, connection and body of an answer as `crawler fetch` shows them, the JSON object,
the exit code. Does not own: the words of a line (`travel`), text and Markdown (`plain`).

Invariants: data alone goes to stdout; nothing binary reaches a terminal unless it is forced;
the exit code is 0 exactly when a crawl would deliver the page.
"""

from __future__ import annotations

import shutil
import sys
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Literal

import click

from crawler.errors import UsageError
from crawler.wording import plural, printable

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.attempts import Fetched
    from crawler.response import Response
    from crawler.spider import Spider

__all__ = ["Form", "judge", "tell"]

HEAD_LINES = 20
"""Lines of a text that a terminal shows."""
Form = Literal["body", "text", "md", "json"]


def tell(
    fetched: Fetched,
    form: Form,
    file: Path | None,
    spider: Spider | None,
    quiet: bool,
    *,
    is_piped: bool,
) -> int:
    """Show an answer, write its body; the exit code. `file` None: to stdout, which `is_piped`
    forces to be taken for no terminal."""
    from crawler.cli.travel import body_line, connection_line, status_line

    page = fetched.page
    if page is not None and not quiet:
        click.echo(f"\n{status_line(page, fetched)}", err=True)
        for name in page.headers:
            for value in page.headers.get_all(name):
                click.echo(printable(f"{name}: {value}"), err=True)
        last = fetched.last
        click.echo(f"\n{connection_line(last) if last else ''}", err=True)
        click.echo(body_line(page, fetched), err=True)
    if form == "json":
        _write(_as_json(fetched), file)
    elif page is not None:
        _write_page(page, form, file, is_piped=is_piped)
    return judge(fetched, spider)


def judge(fetched: Fetched, spider: Spider | None) -> int:
    """The exit code; what a crawl would not deliver is an error with its hint."""
    from crawler.cli.travel import hint_of

    error = fetched.error
    if error is None:
        return 0
    click.echo(printable(f"error: {error}"), err=True)
    name = spider.name if spider is not None else None
    if hint := hint_of(error, fetched.request.url, spider=name):
        click.echo(f"  hint: {printable(hint)}", err=True)
    return 1


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
        file.write_bytes(content)
    except OSError as error:
        raise UsageError(
            f"{file} cannot be written: {error.strerror}", hint="name another file"
        ) from error


def _as_json(fetched: Fetched) -> bytes:
    """All that is known, as one JSON object."""
    import dataclasses

    import msgspec

    from crawler.plain import is_textual, title_of
    from crawler.request import encode_body

    page, error, asked = fetched.page, fetched.error, fetched.request
    is_text = page is not None and is_textual(page)
    known: dict[str, Any] = {
        "url": page.url if page is not None else asked.url,
        "status": page.status if page is not None else None,
        "error": None if error is None else {"code": error.code, "message": error.args[0]},
        "title": (title_of(page) if page is not None else "") or None,
        "chain": [
            {"url": each.url, "status": each.status, "location": each.location}
            for each in fetched.chain
        ],
        "headers": {} if page is None else _fields(page),
        "request": {
            "method": asked.method,
            "url": asked.url,
            "headers": dict(asked.headers or {}),
            "bytes": len(encode_body(asked).content),
        },
        "seconds": fetched.seconds,
        "attempts": [dataclasses.asdict(each) for each in fetched.attempts],
        "body": page.text if page is not None and is_text else None,
        "body_base64": None if page is None or is_text else b64encode(page.body).decode(),
    }
    return msgspec.json.encode(known) + b"\n"


def _fields(page: Response) -> dict[str, str | list[str]]:
    fields = {name: page.headers.get_all(name) for name in page.headers}
    return {name: each[0] if len(each) == 1 else each for name, each in fields.items()}
