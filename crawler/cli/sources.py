"""Start URLs from a file or a pipe: one a line, or a column of CSV, in UTF-8.

Owns: reading them, what is said of a file that holds none, the thread that waits for a
pipe. Does not own: what becomes of a URL (`seeding`).

Invariants: a file is looked through before the crawl begins, and refused as a whole; the
event loop never waits for a pipe, and neither does the end of the process; at most HELD
URLs of a pipe are in memory.
"""

from __future__ import annotations

import asyncio
import codecs
import csv
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from crawler.errors import SpiderError, UsageError, nearest
from crawler.request import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from io import FileIO

    from crawler.spider import Spider

__all__ = ["UrlFile", "UrlPipe", "feed", "is_pipe", "open_urls"]

STDIN = "-"
HELD = 1_000
CHUNK = 65_536
LONGEST_LINE = 1_048_576
"""Characters; no URL is that long, and a file without line ends would fill the memory."""
_HINT = "--urls FILE, FILE:COLUMN or -"


def open_urls(where: str) -> UrlFile | UrlPipe:
    """What `--urls` names; `:COLUMN` behind it means CSV with a line of names.

    A pipe's names are waited for. Raises UsageError when it cannot be read as URLs.
    """
    name, column = _split(where)
    if is_pipe(where):
        return UrlPipe(name, column)
    if not Path(name).is_file():
        raise UsageError(f"no file `{name}` with URLs", hint=_HINT)
    return UrlFile(name, column)


def is_pipe(where: str) -> bool:
    """Whether `--urls` names something that can be read only once."""
    name, _ = _split(where)
    return name == STDIN or Path(name).is_fifo()


def feed(spider: Spider, urls: UrlPipe) -> None:
    """Let the spider start from a pipe, whatever its own `start` does."""

    async def start() -> AsyncIterator[Request]:
        async for url in urls:
            yield Request(url, spider.parse)

    vars(spider)["start"] = start


class UrlFile:
    """Start URLs from a file, read anew at each iteration."""

    def __init__(self, name: str, column: str | None = None) -> None:
        """Look through the file; raises UsageError when it is no text or holds no URL."""
        self.name = name
        self.column = column
        with _opened(name) as stream:
            lines = _lines(stream, name)
            if column is None and name.lower().endswith(".csv"):
                _check_bare(next(lines, ""), name)
            deque(lines, maxlen=0)
        if next(iter(self), None) is None:
            raise UsageError(f"{name} holds no URL", hint=_HINT)

    def __repr__(self) -> str:
        return f"<UrlFile {self.name}{'' if self.column is None else ':' + self.column}>"

    def __iter__(self) -> Iterator[str]:
        with _opened(self.name) as stream:
            yield from _urls(_lines(stream, self.name), self.name, self.column)


class UrlPipe:
    """Start URLs that come while the crawl goes on; can be iterated once.

    A thread of its own reads them: one of the loop's executor would be joined at exit, and
    a read of a pipe ends when its other side likes.
    """

    def __init__(self, name: str, column: str | None = None) -> None:
        """Open the pipe and read its column names, where there are any; raises UsageError."""
        self.name = "standard input" if name == STDIN else name
        self._stream = _opened(0 if name == STDIN else name, self.name)
        self._urls = _urls(_lines(self._stream, self.name), self.name, column)
        self._found: deque[str | SpiderError | None] = deque()
        self._room = threading.Semaphore(HELD)

    def __repr__(self) -> str:
        return f"<UrlPipe {self.name} {len(self._found)} held>"

    async def __aiter__(self) -> AsyncIterator[str]:
        came = asyncio.Event()
        threading.Thread(
            target=self._read, args=(asyncio.get_running_loop(), came), name="urls", daemon=True
        ).start()
        while True:
            while not self._found:
                came.clear()
                await came.wait()
            found = self._found.popleft()
            self._room.release()
            if found is None:
                return
            if isinstance(found, SpiderError):
                raise found
            yield found

    def _read(self, loop: asyncio.AbstractEventLoop, came: asyncio.Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody wants any more
            for found in self._all():
                self._room.acquire()
                self._found.append(found)
                loop.call_soon_threadsafe(came.set)

    def _all(self) -> Iterator[str | SpiderError | None]:
        """The URLs, then how they ended: None, or an error."""
        try:
            with self._stream:
                yield from self._urls
        except UsageError as error:
            yield SpiderError(str(error))
        yield None


def _split(where: str) -> tuple[str, str | None]:
    if Path(where).exists():
        return where, None
    name, colon, column = where.partition(":")
    return name, column if colon else None


def _opened(file: str | int, name: str | None = None) -> FileIO:
    """Unbuffered: a thread that waits in a buffered stdin would break the end of Python."""
    try:
        return open(file, "rb", buffering=0, closefd=file != 0)
    except OSError as error:
        raise UsageError(f"{name or file} cannot be read: {error.strerror}", hint=_HINT) from error


def _lines(stream: FileIO, name: str) -> Iterator[str]:
    """Lines with their ends, each as soon as it is there; UsageError for what is no text."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest, number = "", 1
    try:
        while chunk := stream.read(CHUNK):
            if b"\0" in chunk:
                raise UsageError(f"{name} is binary, or UTF-16", hint="URLs as UTF-8 text")
            *whole, rest = (rest + decoder.decode(chunk)).split("\n")
            for line in whole:
                number += 1
                yield line + "\n"
            if len(rest) > LONGEST_LINE:
                raise UsageError(f"line {number} of {name} is longer than 1 MiB", hint=_HINT)
        yield rest + decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        hint = f"convert it: iconv -f latin1 -t utf-8 {name} > urls.txt"
        raise UsageError(f"{name} is not UTF-8 text: {error.reason}", hint=hint) from error
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}", hint=_HINT) from error


def _urls(lines: Iterable[str], name: str, column: str | None) -> Iterator[str]:
    """What stands in the lines, or in a column of them. Raises UsageError, the lack of a
    column at once."""
    if column is None:
        return (url for line in lines if (url := line.strip()))
    rows = csv.DictReader(line for line in lines if line)
    try:
        columns = rows.fieldnames or ()
    except csv.Error as error:
        raise UsageError(f"{name} is no CSV: {error}", hint=_HINT) from error
    if column not in columns:
        there = f"its columns: {', '.join(columns)}" if columns else "it is empty"
        raise UsageError(f"no column `{column}` in {name}", hint=there)
    return _cells(rows, name, column)


def _check_bare(line: str, name: str) -> None:
    """Raise UsageError where a CSV, of which no column is named, begins with their names."""
    columns = [each.strip() for each in next(csv.reader([line[:CHUNK]]), [])]
    if any(columns) and "://" not in columns[0]:
        raise UsageError(
            f"{name} is a CSV: which column has the URLs?",
            hint=f"--urls {name}:{nearest('url', columns) or 'COLUMN'};"
            f" its columns: {', '.join(columns)}",
        )


def _cells(rows: csv.DictReader[str], name: str, column: str) -> Iterator[str]:
    try:
        for row in rows:
            if url := (row[column] or "").strip():
                yield url
    except csv.Error as error:
        raise UsageError(f"{name}, line {rows.line_num}: {error}", hint=_HINT) from error
