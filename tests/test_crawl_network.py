"""The network in whole crawls: transports, certificates, names, connections."""

from __future__ import annotations

import random
import ssl
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from crawler import (
    DomainSettings,
    PoolSettings,
    Request,
    Response,
    Results,
    RobotsSettings,
    Settings,
    TlsSettings,
    crawl,
    crawl_sync,
)
from crawler.crawling import run_loop
from crawler.testing import Received, Reply, Site, fail_first
from tests.crawling import Walk, hello, links, report, rows, value, walker
from tests.pool_server import Peer, Server
from tests.proxy_server import fields_of
from tests.wire import CA_FILE, TRANSPORTS, good_context

if TYPE_CHECKING:
    from pathlib import Path

    from crawler import CrawlResult

NO_ROBOTS = RobotsSettings(obey=False)


# ── the same crawl on both transports ────────────────────────────────────────────────────


class Odd(Walk):
    """Asks with HEAD too."""

    def parse(self, page: Response) -> Results:
        yield from self.gathered(page)
        if page.url.endswith("/"):
            yield Request(page.url + "head", method="HEAD")
            yield Request(page.url + "form", method="POST", data={"a": "1"})


def odd_site() -> Site:
    large = Reply.html("<p>" + "Many words. " * 9_000)
    pages: dict[str, Any] = {
        "/robots.txt": Reply.text("User-agent: *\nDisallow: /private"),
        "/a": links("/b", "/private/x", "/missing"),
        "/b": Reply.redirect("/c", 301),
        "/c": links("/"),
        "/loop": Reply.redirect("/loop2"),
        "/loop2": Reply.redirect("/loop"),
        "/flaky": fail_first(1, 503, then=Reply.html("<p>at last")),
        "/busy": fail_first(1, 429, then=Reply.html("<p>free")),
        "/broken": Reply.code(500),
        "/gzip": large.gzip(),
        "/liar": Reply(body=b"no gzip at all", headers=(("Content-Encoding", "gzip"),)),
        "/chunks": Reply(body=large.body, headers=large.headers, chunked=True),
        "/empty": Reply(),
        "/none": Reply(status=204),
        "/same": Reply(status=304),
        "/head": Reply.big(100),
        "/form": lambda request: Reply.text(request.body.decode()),
        "/cut": Reply.big(5_000).truncated(100),
        "/cut-chunks": Reply(body=large.body, chunked=True).truncated(3_000),
        "/reset": Reply.big(5_000).reset(100),
        "/garbage": Reply.garbage(),
        "/silent": Reply(raw=b"", end="close"),
        "/closing": Reply(body=b"<a href='/a'>", end="close"),
        "/fields": Reply(headers=tuple((f"X-{n}", "y") for n in range(300))),
        "/fields2": Reply(headers=tuple((f"X-{n}", "y") for n in range(150))),
        "/lengths": Reply(headers=(("Content-Length", "5"), ("Content-Length", "6"))),
        "/loud": Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n"),
        "/upgrade": Reply(raw=b"HTTP/1.1 101 Switching Protocols\r\n\r\n", end="close"),
        "/early": Reply(
            raw=b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        ),
        "/old": Reply(raw=b"HTTP/1.0 200 OK\r\n\r\nuntil the end", end="close"),
    }
    return Site({"/": links(*pages), **pages})


@pytest.mark.parametrize("settings", [{}, {"keepalive": 0}], ids=["keep-alive", "close"])
def test_the_same_crawl_gives_the_same_rows_on_both_transports(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    seen = {}
    for transport in TRANSPORTS:
        db = tmp_path / f"{transport}.db"
        with odd_site().threaded() as site:
            pool = PoolSettings(**settings | {"transport": transport})
            crawl_sync(walker([site.url("/")], Odd), db=db, settings=Settings(pool=pool))
            base = site.url("")
        items = rows(db, "select replace(url, ?, ''), status, body from items", base)
        seen[transport] = {
            "requests": rows(
                db,
                "select replace(url, ?, ''), method, state, reason, attempts, depth from requests",
                base,
            ),
            "fetches": rows(
                db,
                "select replace(url, ?, ''), status, error, decision, attempt, bytes_received,"
                " http_version, proxy from fetches",
                base,
            ),
            "errors": rows(db, "select code, count from v_errors"),
            "items": items,
        }
    for what, one in seen["native"].items():
        other = seen["httpcore"][what]
        assert set(map(tuple, one)) == set(map(tuple, other)), what
        assert len(one) == len(other), what
    found = {row[0]: row[2:4] for row in seen["native"]["requests"] if row[1] == "GET"}
    assert found["/flaky"] == found["/gzip"] == found["/none"] == ("done", None)
    assert found["/cut"] == ("failed", "truncated")
    assert found["/private/x"] == ("dropped", "robots")


# ── certificates ─────────────────────────────────────────────────────────────────────────


def crawl_behind(
    server: Server, db: Path, *, url: str = "", **settings: Any
) -> tuple[CrawlResult, list[bytes]]:
    """Crawl a server that runs on the crawl's own loop; the heads it got too."""

    async def scene() -> CrawlResult:
        async with server:
            filled = {
                name: made(server) if callable(made) else made for name, made in settings.items()
            }
            start = url.format(port=server.port) or server.url
            return await crawl(walker([start]), db=db, settings=Settings(**filled))

    return run_loop(scene()), server.heads


def loose(server: Server) -> dict[str, DomainSettings]:
    return {server.domain: DomainSettings(verify=False)}


@pytest.mark.parametrize("robots", [True, False], ids=["robots", "page"])
def test_a_certificate_that_signed_itself_is_refused_and_the_error_names_the_check(
    robots: bool, tmp_path: Path
) -> None:
    db = tmp_path / "x.db"
    server = Server(hello, tls=good_context())
    result, heads = crawl_behind(server, db, robots=RobotsSettings(obey=robots))
    assert (result.exit_code, heads) == (3, [])
    assert rows(db, "select distinct error from fetches") == [("tls",)]
    (message,) = rows(db, "select message from v_errors")[0]
    assert "tls" in message
    assert "self-signed certificate" in message
    assert "certificates not verified" not in report(db)


def test_a_domain_that_is_not_verified_is_crawled_and_shown_in_the_report(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    server = Server(hello, tls=good_context())
    result, _ = crawl_behind(server, db, domains=loose)
    assert (result.exit_code, result.delivered) == (0, 2)
    line = f"  tls       certificates not verified: {server.domain}"
    assert line in report(db).splitlines()


def test_of_many_domains_that_are_not_verified_the_report_names_a_few(tmp_path: Path) -> None:
    db = tmp_path / "x.db"

    async def scene() -> CrawlResult:
        async with AsyncExitStack() as stack:
            urls = []
            for number in range(1, 8):
                server = Server(hello, tls=good_context(), host=f"127.0.0.{number}")
                await stack.enter_async_context(server)
                urls.append(server.url)
            named = {
                "127.0.0.*": DomainSettings(verify=False),
                "127.0.0.1:*": DomainSettings(verify=True),
            }
            own = Settings(domains=named, tls=TlsSettings(ca_file=CA_FILE))
            return await crawl(walker(urls), db=db, settings=own)

    assert run_loop(scene()).delivered == 14
    (line,) = [line for line in report(db).splitlines() if line.startswith("  tls")]
    assert "127.0.0.1:" not in line
    assert "127.0.0.2:" in line
    assert line.endswith("and 1 more")


def test_an_authority_of_ones_own_is_trusted_when_it_is_named(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    server = Server(hello, tls=good_context())
    result, _ = crawl_behind(server, db, tls=TlsSettings(ca_file=CA_FILE))
    assert (result.exit_code, result.delivered) == (0, 2)
    assert rows(db, "select distinct tls_s > 0 from fetches where not reused") == [(1,)]
    assert "certificates" not in report(db)


# ── names and addresses ──────────────────────────────────────────────────────────────────


def test_names_are_reached_at_the_addresses_that_were_given_each_with_its_client(
    tmp_path: Path,
) -> None:
    db = tmp_path / "x.db"
    site = Site({"/": links("/more"), "/more": links()}, addresses=["127.0.0.2"])
    with site.threaded():
        port = site.addresses[0].rpartition(":")[2]
        names = [f"shop.test:{port}", f"other.test:{port}"]
        given = {"shop.test": "127.0.0.2", "other.test": "127.0.0.2"}
        crawl_sync(
            walker(f"http://{name}/" for name in names), db=db, settings=Settings(resolve=given)
        )
    assert {(entry.host, entry.path) for entry in site.log} == {
        (name, path) for name in names for path in ("/robots.txt", "/", "/more")
    }
    assert rows(db, "select domain, new_connections > 0, clients from v_pools order by 1") == [
        (name, 1, 1) for name in sorted(names)
    ]
    assert value(db, "select clients_peak from v_runs") == 2
    assert rows(db, "select distinct peer from fetches where not reused") == [("127.0.0.2",)]


@pytest.mark.parametrize(
    ("name", "is_good"), [("shop.test", True), ("other.test", False)], ids=["right", "wrong"]
)
def test_the_certificate_is_checked_by_name_although_an_address_was_given(
    name: str, is_good: bool, tmp_path: Path
) -> None:
    db, authority = tmp_path / "x.db", trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("shop.test").configure_cert(context)
    asked: list[str | None] = []
    context.sni_callback = lambda _, server_name, __: asked.append(server_name)
    result, heads = crawl_behind(
        Server(hello, host="127.0.0.2", tls=context),
        db,
        url=f"https://{name}:{{port}}/",
        resolve={name: "127.0.0.2"},
        tls=TlsSettings(ca_file=str(tmp_path / "ca.pem")),
        robots=NO_ROBOTS,
    )
    assert set(asked) == {name}
    assert result.delivered == (2 if is_good else 0)
    assert {fields_of(head)[b"host"].partition(b":")[0] for head in heads} <= {name.encode()}
    assert rows(db, "select distinct error from fetches") == [(None if is_good else "tls",)]


def test_connections_leave_from_the_address_that_was_set(tmp_path: Path) -> None:
    seen: set[str] = set()

    async def look(peer: Peer, head: bytes) -> bool:
        seen.add(peer.writer.get_extra_info("peername")[0])
        return await hello(peer, head)

    result, _ = crawl_behind(
        Server(look), tmp_path / "x.db", domain=DomainSettings(local_address="127.0.0.3")
    )
    assert result.delivered == 2
    assert seen == {"127.0.0.3"}


# ── few clients and many, connections that last and that do not ──────────────────────────

HOSTS = 20


class Signed(Walk):
    """Gives back the cookie that each page has set."""

    def parse(self, page: Response) -> Results:
        cookie = page.headers["set-cookie"].partition(";")[0]
        for link in page.css("a"):
            request = page.follow(link, self.parse)
            yield request.replace(headers={"cookie": f"{cookie}; mine=1"})
        yield {"url": page.url, "cookie": cookie, "body": page.text}


def signing_site() -> Site:
    def answer(request: Received) -> Reply:
        cookie = f"seen={request.number}{request.path.replace('/', '-')}; Path=/"
        left = "" if request.path.count("/") > 3 else "<a href='a/'>a</a><a href='b/'>b</a>"
        body = f"{request.host} {request.path} {request.header('cookie')} {left}"
        return Reply(
            body=body.encode(), headers=(("Content-Type", "text/html"), ("Set-Cookie", cookie))
        )

    return Site({"/robots.txt": Reply.code(404)}, addresses=HOSTS, fallback=answer)


def test_one_client_and_no_bound_give_the_same_urls_bodies_and_cookies(tmp_path: Path) -> None:
    seen = []
    for clients in (1, 256):
        db = tmp_path / f"{clients}.db"
        with signing_site().threaded() as site:
            pool = PoolSettings(clients=clients)
            start = [site.url("/", at) for at in range(HOSTS)]
            crawl_sync(walker(start, Signed), db=db, settings=Settings(pool=pool))
            port = site.url("").rpartition(":")[2]
        asked = sorted((e.number, e.path, e.header("cookie") or "") for e in site.log)
        found = rows(db, "select url, cookie, body from items order by 1")
        found += rows(db, "select url, state, reason, attempts from requests order by 1")
        told = [tuple(str(cell).replace(f":{port}", "") for cell in row) for row in found]
        seen.append((asked, told))
        assert value(db, "select clients_peak from v_runs") == min(clients, HOSTS)
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == HOSTS * (15 + 1)


def test_what_connections_cost_is_in_the_rows_and_adds_up_in_the_view(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    pages = {f"/{n}": links(f"/{n + 1}", f"/{n + 2}") for n in range(30)}
    with Site(pages, addresses=6).threaded() as site:
        port = site.url("").rpartition(":")[2]
        start = [site.url("/0", at) for at in range(5)] + [f"http://shop.test:{port}/0"]
        own = Settings(pool=PoolSettings(clients=2), resolve={"shop.test": "127.0.0.6"})
        crawl_sync(walker(start), db=db, settings=own)
        opened = site.stats().opened
        served = {(e.host, e.path): e.connection for e in site.log}
    found = rows(
        db,
        "select domain, url, reused, nth, peer, http_version, generation, replays, connect_s,"
        " dns_s, tls_s from fetches",
    )
    assert len(found) == 6 * (32 + 1)
    by_connection: dict[int, list[int]] = {}
    for domain, url, reused, nth, peer, version, generation, replays, *times in found:
        address = "127.0.0.6" if domain.startswith("shop") else domain.partition(":")[0]
        assert (reused, peer) == ((0, address) if nth == 1 else (1, None))
        assert (version, replays, times[2]) == ("HTTP/1.1", 0, None)
        has_name = domain.startswith("shop")
        assert generation >= 1
        assert (times[0] is None, times[1] is None) == (bool(reused), bool(reused) or not has_name)
        by_connection.setdefault(served[domain, "/" + url.split("/", 3)[3]], []).append(nth)
    assert all(sorted(nths) == list(range(1, len(nths) + 1)) for nths in by_connection.values())
    assert len(by_connection) == opened
    assert rows(
        db,
        "select domain, requests, new_connections, reused_connections, replays, clients,"
        " connect_failures from v_pools order by 1",
    ) == rows(
        db,
        "select domain, count(*), sum(not reused), sum(reused), sum(replays), max(generation),"
        " sum(error is not null) from fetches group by 1 order by 1",
    )
    assert value(db, "select max(clients) from v_pools") > 1
    assert value(db, "select max(connections) from v_pools") >= 1
    assert value(db, "select new_connections + reused_connections from v_runs") == len(found)


def test_servers_that_end_idle_connections_at_random_lose_no_page(tmp_path: Path) -> None:
    """As a close that crosses a request looks from here, and closes that come before it."""
    db, chance, count = tmp_path / "x.db", random.Random(1), 100
    last: dict[tuple[int, int], int] = {}

    def answer(request: Received) -> Reply:
        where = (request.number, request.connection)
        nth = last[where] = last.get(where, 0) + 1
        if nth > 1 and chance.random() < 0.25:
            return Reply(raw=b"", end="close")
        body = "".join(f'<a href="/{n}">x</a>' for n in range(8))
        page = Reply.html(body)
        return Reply(body=page.body, headers=page.headers, end=chance.choice(["keep", "close"]))

    site = Site({"/robots.txt": Reply.code(404)}, addresses=count, fallback=answer)
    with site.threaded():
        start = [site.url("/", at) for at in range(count)]
        result = crawl_sync(walker(start), db=db, settings=Settings())
    assert (result.delivered, result.failed) == (count * 9, 0)
    replays = value(db, "select sum(replays) from v_pools")
    assert replays == value(db, "select sum(replays) from fetches") > 0


def test_no_time_of_a_fetch_is_negative_or_longer_than_the_whole(tmp_path: Path) -> None:
    db, count = tmp_path / "x.db", 50
    with Site({"/": Reply.html("<p>x")}, addresses=count).threaded() as site:
        start = [site.url("/", at) for at in range(count)]
        own = Settings(pool=PoolSettings(keepalive=0), concurrency=1)
        crawl_sync(walker(start), db=db, settings=own)
    for connect, ttfb, total in rows(db, "select connect_s, ttfb_s, total_s from fetches"):
        assert connect > 0
        assert 0 < ttfb <= total - connect
