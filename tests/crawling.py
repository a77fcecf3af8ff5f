"""What tests of whole crawls share: a spider that follows every link, and its rows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from crawler import DomainSettings, Response, Results, Retry, Settings, Spider
from crawler.report import render, summarise
from crawler.testing import Reply
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.pool_server import Peer

OFTEN = Retry(attempts=3, wait=0.01, max_wait=0.02)


class Walk(Spider):
    """Follows every link at once; an item says what was seen."""

    retry = OFTEN
    settings = Settings(domain=DomainSettings(delay=0))

    def parse(self, page: Response) -> Results:
        return self.gathered(page)

    def gathered(self, page: Response) -> Iterator[Any]:
        yield from page.follow_all("a", self.parse)
        yield {"url": page.url, "status": page.status, "body": page.text}


def walker(start: Iterable[str], kind: type[Spider] = Walk) -> Spider:
    spider = kind()
    spider.start_urls = list(start)
    return spider


def rows(db: Path, sql: str, *parameters: Any) -> list[Any]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql, parameters).fetchall()


def value(db: Path, sql: str, *parameters: Any) -> Any:
    ((found,),) = rows(db, sql, *parameters)
    return found


def report(db: Path) -> str:
    run = value(db, "select max(id) from runs")
    with Reader(db) as reader:
        return render(summarise(reader, run))


def links(*paths: str) -> Reply:
    return Reply.html("".join(f'<a href="{path}">x</a>' for path in paths))


def html(body: str, *fields: str) -> bytes:
    """An answer for a server that plays raw bytes."""
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/html", f"Content-Length: {len(body)}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def hello(peer: Peer, head: bytes) -> bool:
    """A page with one link, whatever is asked for."""
    await peer.body(head)
    if head.startswith(b"GET /robots.txt"):
        await peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    else:
        await peer.send(html("<a href='/more'>x</a>"))
    return True
