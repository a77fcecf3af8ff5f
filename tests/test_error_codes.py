"""Every error code, provoked in a real crawl; every hint, held against what there is."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from contextlib import AsyncExitStack, closing
from typing import TYPE_CHECKING

import httpx
import pytest

from crawler import (
    BodySettings,
    DomainSettings,
    HeadSettings,
    PoolSettings,
    Request,
    Response,
    Results,
    Retry,
    RobotsSettings,
    Settings,
    Spider,
    TimeoutSettings,
    crawl,
    crawl_sync,
    item,
)
from crawler.codes import CODES, advice, code_of
from crawler.errors import FetchError
from crawler.layers import flag_layer, resolve
from crawler.pool import PoolTransport
from crawler.pool.deadlines import DEADLINES
from crawler.testing import Reply, Site, dead_address
from tests.commands import check_line
from tests.crawling import links, rows, value
from tests.pool_server import Server, dripping, hang
from tests.wire import CA_FILE, full_backlog, good_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.pool_server import Peer

ONCE = Retry(attempts=1, wait=0.0)
NOW = DomainSettings(delay=0, give_up=0, concurrency=8)
SHORT = TimeoutSettings(connect=0.3, tls=0.3, head=0.3, read=0.3, write=0.3, total=5)
NO_ROBOTS = RobotsSettings(obey=False)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
JUNK = Reply(body=b"this is not gzip", headers=(("Content-Encoding", "gzip"),))
MANY = Reply(headers=tuple((f"X-{n}", "y") for n in range(60)))


def told(db: Path) -> dict[str, str]:
    """Code to message of a run's errors; of a domain that was given up, its cause too."""
    found: dict[str, str] = {}
    for code, message in rows(db, "select code, coalesce(message, '') from v_errors"):
        found[code] = message
        if code == "domain-unreachable":
            cause, _, rest = message.partition(": ")
            found[cause] = rest
    return found


def check(found: dict[str, str], facts: dict[str, str]) -> None:
    missing = {code: found.get(code) for code in facts if code not in found}
    assert missing == {}, found
    for code, fact in facts.items():
        assert re.search(fact, found[code]), (code, found[code])


class Asks(Spider):
    """Asks for what it is given, and takes whatever comes."""

    retry = ONCE
    wanted: list[str]

    def start(self) -> Results:
        for url in self.wanted:
            yield Request(url, self.parse)

    def parse(self, page: Response) -> Results:
        return None


# -- on the wire ------------------------------------------------------------------------------

UNREACHABLE = {
    "dns": "given up after 1 attempt to reach it",
    "connect-refused": "given up after 1 .*(failed|refused)",
    "connect-timeout": r"no connection to 127\.0\.0\.1:\d+ in 0\.3 s \(timeout\.connect\)",
    "connect": "given up after 1 .*(unreachable|failed)",
    "tls": "certificate refused: self-signed certificate",
    "tls-timeout": r"0\.3 s .*timeout\.tls",
}
ANSWERED = {
    "domain-unreachable": "given up",
    "address": r"none can be reached from 127\.0\.0\.1 \(local_address\)",
    "proxy": "the proxy: .*(failed|refused)",
    "head-timeout": r"no answer in 0\.3 s \(timeout\.head\)",
    "read-timeout": r"nothing came for 0\.3 s \(timeout\.read\)",
    "write-timeout": r"0\.3 s \(timeout\.write\)",
    "total-timeout": r"0\.4 s \(timeout\.total\)",
    "reset": "reset|closed|ended",
    "protocol": "HTTP",
    "truncated": "the body ended after 40 bytes",
    "decode": "broken content coding",
    "too-large": r"body\.decoded",
    "head-limit": "50",
    "redirect-loop": "/loop → .*/back → .*/loop",
    "redirect-limit": "redirects=3, seen 4",
    "bad-redirect": "mailto:x@y",
    "bad-request": "0 is no port",
    "http-404": "the server answered 404",
    "http-503": "the server answered 503",
}


class Wire(Asks):
    """Start URLs that each fail in their way."""

    proxy: str
    deaf: str
    drips: str

    def start(self) -> Results:
        for url in self.wanted:
            yield Request(url, self.parse)
        yield Request(self.wanted[0] + "proxied", proxy=self.proxy)
        yield Request(self.deaf, method="POST", body=bytes(4_000_000))
        yield Request(self.drips, timeout=0.4)


PATHS: dict[str, Reply] = {
    "/hang": Reply.hang(),
    "/stall": links("/").stalled(5),
    "/reset": Reply.big(4000).reset(40),
    "/garbage": Reply.garbage(),
    "/cut": Reply.big(4000).truncated(40),
    "/junk": JUNK,
    "/large": Reply.big(50_000),
    "/many": MANY,
    "/loop": Reply.redirect("/back"),
    "/back": Reply.redirect("/loop"),
    **{f"/r{n}": Reply.redirect(f"/r{n + 1}") for n in range(5)},
    "/mailto": Reply.redirect("mailto:x@y"),
    "/gone": Reply.code(404),
    "/down": Reply.code(503),
}
ROOTS = [path for path in PATHS if path not in ("/back", "/r1", "/r2", "/r3", "/r4")]


async def deaf(peer: Peer, head: bytes) -> bool:
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()
    return False


def test_what_goes_wrong_on_the_wire_has_its_code(tmp_path: Path) -> None:
    db = tmp_path / "x.db"

    async def scene() -> None:
        async with AsyncExitStack() as stack:
            site = await stack.enter_async_context(Site(dict(PATHS)))
            six = await stack.enter_async_context(Site({}, addresses=["::1"]))
            untrusted = await stack.enter_async_context(Server(tls=good_context()))
            silent = await stack.enter_async_context(Server(hang))
            unread = await stack.enter_async_context(Server(deaf))
            slow = await stack.enter_async_context(
                Server(dripping(HEAD + b"Content-Length: 999\r\n\r\n", b"x" * 999, 0.1))
            )
            backlog = stack.enter_context(full_backlog())
            dead = "http://{}:{}/".format(*dead_address())
            spider = Wire(
                wanted=[
                    site.url("/"),
                    *(site.url(path) for path in ROOTS),
                    *(six.url("/"), untrusted.url, f"https://{silent.domain}/", backlog, dead),
                    *("http://nowhere.test/", f"http://{'x' * 64}.invalid/", "http://127.0.0.1:0/"),
                ],
                proxy=dead,
                deaf=unread.url,
                drips=slow.url,
            )
            settings = Settings(
                domain=NOW,
                domains={"[::1]": DomainSettings(local_address="127.0.0.1")},
                resolve={"nowhere.test": "127.255.255.255"},
                timeout=SHORT,
                robots=NO_ROBOTS,
                redirects=3,
                body=BodySettings(decoded=10_000),
                head=HeadSettings(fields=50),
            )
            result = await crawl(spider, db=db, settings=settings)
            assert result.ended_by == "finished"

    asyncio.run(scene())
    found = told(db)
    check(found, UNREACHABLE | ANSWERED)
    errors = {code for (code,) in rows(db, "select distinct error from fetches")}
    reasons = {code for (code,) in rows(db, "select distinct reason from requests")}
    assert set(UNREACHABLE) <= errors
    assert set(ANSWERED) <= reasons


# -- rules, callbacks, the store --------------------------------------------------------------

RULES = {"robots": "dropped", "scope": "dropped"}
PAGES = {
    "callback": "ValueError: no price",
    "no-match": "'h2' matched nothing on http://",
    "item-invalid": "price",
    "store": "too many SQL variables|columns|too big|overflow|variables",
    "bad-url": "only http and https",
}


@item
class Priced:
    price: float


class Pages(Spider):
    """Callbacks and items that fail, links that may not be followed."""

    retry = ONCE
    site: str
    allowed_domains = ("127.0.0.1",)

    def start(self) -> Results:
        for name in ("raises", "empty", "typed", "wide", "leads"):
            yield Request(f"{self.site}{name}", getattr(self, name))

    def raises(self, page: Response) -> Results:
        raise ValueError("no price")

    def empty(self, page: Response) -> Results:
        return {"title": page.get("h2")}

    def typed(self, page: Response) -> Results:
        return Priced(price="cheap")  # type: ignore[arg-type]

    def wide(self, page: Response) -> Results:
        return {f"c{n}": n for n in range(3_000)}

    def leads(self, page: Response) -> Iterator[Request]:
        yield Request("http://elsewhere.test/")
        yield Request(f"{self.site}private")
        yield Request("ftp://127.0.0.1/")


def test_what_pages_give_and_rules_refuse_has_its_code(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    robots = Reply.text("User-agent: *\nDisallow: /private")
    with Site({"/robots.txt": robots}, fallback=links()).threaded() as site:
        crawl_sync(Pages, db=db, site=site.url("/"), settings=Settings(domain=NOW))
    check(told(db), PAGES)
    dropped = rows(db, "select reason, url from requests where state = 'dropped' order by 1")
    assert [reason for reason, _ in dropped] == list(RULES)
    assert [url.rpartition("/")[2] for _, url in dropped] == ["private", ""]
    drops = dict(rows(db, "select reason, count from v_drops"))
    assert drops == {"robots": 1, "scope": 1}
    reasons = rows(db, "select distinct reason from requests where state = 'failed'")
    assert {reason for (reason,) in reasons} == set(PAGES)


# -- ours -------------------------------------------------------------------------------------

OURS = {"local": "pool.sockets", "internal": "TypeError"}


def test_a_machine_that_is_short_of_sockets_is_nobodys_fault(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    with Site({"/": links()}, addresses=2).threaded() as site:
        site.add("/", Reply.hang(), at=0)
        short = Settings(
            domain=NOW,
            robots=NO_ROBOTS,
            pool=PoolSettings(sockets=1),
            timeout=TimeoutSettings(connect=0.2, head=0.5),
        )
        urls = [site.url("/", 0), site.url("/", 1)]
        result = crawl_sync(Asks, db=db, wanted=urls, settings=short)
    assert (result.delivered, result.failed) == (1, 1)
    errors = {code for (code,) in rows(db, "select error from fetches")}
    assert errors == {"local", "head-timeout", None}
    assert value(db, "select attempts from requests where state = 'done'") == 1


def test_a_row_that_nobody_of_ours_wrote_is_told_as_our_mistake(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    first, rest = (Settings(domain=NOW, robots=NO_ROBOTS, limit=n) for n in (1, None))
    with Site({"/": links(), "/1": links()}).threaded() as site:
        wanted = [site.url("/"), site.url("/1")]
        crawl_sync(Asks, db=db, wanted=wanted, settings=first)
        with closing(sqlite3.connect(db)) as connection, connection:
            connection.execute("UPDATE req SET payload = ?", ('{"retry": {"never": 1}}',))
        result = crawl_sync(Asks, db=db, wanted=wanted, settings=rest, resume=True)
    assert dict(result.failures) == {"internal": 1}
    assert OURS["internal"] in told(db)["internal"]
    detail = value(db, "select detail from v_errors where code = 'internal'")
    assert "restored_retry" in detail


# -- the pool alone ---------------------------------------------------------------------------

ALONE = {
    "pool-timeout": "all 1 connections were busy for 0.05 s",
    "cancelled": "closed",
    "too-slow": r"under 1e\+06 bytes/s over 0\.05 s",
}


def test_what_a_crawl_never_waits_for_happens_in_a_pool_alone() -> None:
    async def code_of_get(transport: PoolTransport, url: str, **timeout: float) -> FetchError:
        async with httpx.AsyncClient(transport=transport, timeout=None) as client:
            extensions = {"timeout": timeout} if timeout else {}
            with pytest.raises(FetchError) as caught:
                await client.get(url, extensions=extensions)
            return caught.value

    async def scene() -> dict[str, str]:
        found = []
        slow = dripping(HEAD + b"Content-Length: 999\r\n\r\n", b"x" * 999, 0.01)
        async with Server(hang) as silent, Server(slow) as dripped:
            transport = PoolTransport(connections=1)
            first = asyncio.ensure_future(code_of_get(transport, silent.url))
            await silent.until_heads(1)
            async with asyncio.timeout(5):
                found.append(await code_of_get(transport, silent.url, pool=0.05))
                found.append(await first)  # the second client closed the transport they share
            floor = DEADLINES._replace(rate=1e6, rate_over=0.05)
            found.append(await code_of_get(PoolTransport(deadlines=floor), dripped.url))
        return {error.code: str(error) for error in found}

    check(asyncio.run(scene()), ALONE)


# -- all of them ------------------------------------------------------------------------------


def test_every_code_has_a_scene_that_provokes_it() -> None:
    scenes = [UNREACHABLE, ANSWERED, RULES, PAGES, OURS, ALONE]
    provoked = {code for scene in scenes for code in scene}
    assert set(CODES) - provoked == set()
    assert {code for code in provoked if code_of(code) is None} == set()


HINTS = {name: code.hint for name, code in CODES.items()} | {
    name: (code_of(name) or CODES["dns"]).hint
    for name in ("http-400", "http-401", "http-403", "http-404", "http-410", "http-429", "http-500")
}


@pytest.mark.parametrize("name", HINTS)
def test_a_hint_is_something_that_can_be_typed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(CA_FILE, "ca.pem")
    quoted = re.findall(r"`([^`]+)`", HINTS[name])
    assert quoted, "it names nothing"
    for text in quoted:
        for pair in re.findall(r"-s (\S+=(?:'[^']*'|\S+))", text):
            resolve([flag_layer([pair.replace("'", "")])])
        if text.startswith("crawler ") and text != "crawler run":
            check_line(text)


def test_advice_has_what_it_is_about_put_in() -> None:
    told = advice("domain-unreachable", host="shop.test:8080")
    assert told.startswith("`crawler doctor shop.test:8080` tries it")
    assert "`crawler requeue --domain shop.test:8080`" in told
    assert "-s resolve.shop.test=192" in advice("dns", host="shop.test:8080")
    parse = advice("no-match", url="http://a.test/?a=1&b=2", spider="books")
    assert parse.startswith("`crawler parse books 'http://a.test/?a=1&b=2'` shows")
    assert advice("http-404", url="http://a.test/").startswith("`crawler why http://a.test/`")
    assert advice("http-429") == "`-s domain.delay=5` asks less often"
    assert advice("no-such-code") == ""


def test_the_meaning_of_every_code_is_a_line() -> None:
    for name, code in CODES.items():
        assert code.meaning, name
        assert code.meaning[0].islower() or code.meaning.startswith("TLS"), name
        assert code.fault in {"domain", "request", "permanent", "local", "spider", "rule"}
        assert len(code.hint) <= 120, name
