"""What the crawls of one session share: settings, sockets, names that are one domain."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from crawler import (
    DomainSettings,
    HeadSettings,
    PoolSettings,
    Response,
    Results,
    RobotsSettings,
    Session,
    Settings,
    TimeoutSettings,
    TlsSettings,
    crawl,
    crawl_sync,
)
from crawler.crawling import run_loop, settings_of
from crawler.errors import SettingsError
from crawler.testing import Site, dead_address
from storage import StorageError
from storage.sqlite import SqliteStore
from tests.crawling import Walk, links, report, rows, value, walker
from tests.wire import CA_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from crawler import CrawlResult

NO_ROBOTS = RobotsSettings(obey=False)
ELSEWHERE = "203.0.113.7"
"""For documentation (RFC 5737): no machine has it."""


# ── settings ─────────────────────────────────────────────────────────────────────────────


def test_an_address_that_this_machine_has_not_is_refused_before_any_request(
    tmp_path: Path,
) -> None:
    with Site({"/": links()}).threaded() as site:
        for name, own in (
            ("domain", Settings(domain=DomainSettings(local_address=ELSEWHERE))),
            (
                'domains."127.0.0.1"',
                Settings(domains={"127.0.0.1": DomainSettings(local_address=ELSEWHERE)}),
            ),
        ):
            with pytest.raises(SettingsError) as caught:
                crawl_sync(walker([site.url("/")]), db=tmp_path / "x.db", settings=own)
            assert str(caught.value).startswith(f"{name}.local_address {ELSEWHERE} is no address")
            assert caught.value.hint
        assert site.stats().opened == 0
    assert rows(tmp_path / "x.db", "select * from runs") == []


def test_the_command_refuses_such_an_address_as_a_mistake(tmp_path: Path) -> None:
    with Site({"/": links()}).threaded() as site:
        tmp_path.joinpath("urls").write_text(site.url("/"))
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "crawler", "run", "pages", "--urls", "urls"),
                *("-s", f"domain.local_address={ELSEWHERE}"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert site.stats().opened == 0
    assert ran.returncode == 2
    error, hint = ran.stderr.splitlines()
    assert error.startswith(f"error: domain.local_address {ELSEWHERE}")
    assert hint.startswith("  hint: ")


OF_SESSION = Settings(
    pool=PoolSettings(clients=5, keepalive=3),
    tls=TlsSettings(ca_file=CA_FILE, minimum="1.3"),
    resolve={"shop.test": "127.0.0.1", "other.test": "127.0.0.1"},
    head=HeadSettings(fields=150, interim=3),
    robots=NO_ROBOTS,
)


def crawl_in_session(site: Site, *runs: Settings, of_session: Settings = OF_SESSION) -> list[Any]:
    """One run after the other; what each ended as, or was refused for."""

    async def scene() -> list[Any]:
        ends: list[Any] = []
        async with site, await Session.open(None, of_session) as session:
            for own in runs:
                spider = walker([site.url("/")])
                try:
                    result = await session.crawl(spider, settings=settings_of(spider, own))
                    ends.append(result.delivered)
                except SettingsError as error:
                    ends.append(str(error))
        return ends

    ends: list[Any] = run_loop(scene())
    return ends


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("pool.clients", Settings(pool=PoolSettings(clients=6))),
        ("pool.transport", Settings(pool=PoolSettings(transport="httpcore"))),
        ("tls.minimum", Settings(tls=TlsSettings(minimum="1.2"))),
        ("tls.client_cert", Settings(tls=TlsSettings(client_cert=CA_FILE))),
        ('resolve."shop.test"', Settings(resolve={"shop.test": "127.0.0.2"})),
        ('resolve."new.test"', Settings(resolve={"new.test": "127.0.0.1"})),
        ("head.bytes", Settings(head=HeadSettings(bytes=1_000))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_run_wants_of_a_session_that_has_it_otherwise_is_refused_by_name(
    name: str, own: Settings
) -> None:
    site = Site({"/": links()})
    (refused,) = crawl_in_session(site, own)
    assert f"`{name}` holds for a whole session" in refused
    assert site.stats().opened == 0


def test_runs_that_want_nothing_of_their_session_or_what_it_has_are_crawled() -> None:
    same = [Settings(**{group: getattr(OF_SESSION, group)}) for group in ("pool", "tls", "resolve")]
    site = Site({"/": links("/1"), "/1": links()})
    runs = [Settings(), Settings(robots=NO_ROBOTS), *same, OF_SESSION]
    assert crawl_in_session(site, *runs) == [2] * len(runs)


@pytest.mark.parametrize(
    "own",
    [
        Settings(pool=PoolSettings(clients=5)),
        Settings(tls=TlsSettings(minimum="1.3")),
        Settings(resolve={"shop.test": "127.0.0.1"}),
        Settings(head=HeadSettings(interim=3)),
    ],
    ids=["pool", "tls", "resolve", "head"],
)
def test_a_run_that_names_a_part_of_what_its_session_has_is_crawled(own: Settings) -> None:
    assert crawl_in_session(Site({"/": links()}), own) == [1]


# ── a machine that is short of sockets ───────────────────────────────────────────────────

PATIENCE_S = 0.8
"""Less than one heartbeat."""


def starved(**settings: Any) -> Settings:
    """One socket, which somebody else has."""
    fields: dict[str, Any] = {
        "pool": PoolSettings(sockets=1),
        "timeout": TimeoutSettings(connect=0.1),
        "domain": DomainSettings(delay=0),
        "patience": PATIENCE_S,
    }
    return Settings(**fields | settings)


class Look(logging.Handler):
    """Notes what the session lacks whenever the log says something."""

    def __init__(self, session: Session) -> None:
        super().__init__(logging.WARNING)
        self.session = session
        self.short = [session.live().shortage]
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        self.short.append(self.session.live().shortage)


def test_a_crawl_that_no_socket_is_left_for_ends_as_waiting_and_says_what_is_short(
    tmp_path: Path,
) -> None:
    db, site, log = tmp_path / "x.db", Site({"/": links()}, addresses=2), logging.getLogger()

    async def scene() -> tuple[CrawlResult, Look]:
        async with site, await Session.open(db, starved()) as session:
            assert session._clients.budget.try_acquire()
            running = await session.begin(walker([site.url("/", 0), site.url("/", 1)]))
            look = Look(session)
            log.addHandler(look)
            try:
                async with asyncio.timeout(5):
                    return await session.ended(running), look
            finally:
                log.removeHandler(look)
                session._clients.budget.release()

    result, look = run_loop(scene())
    assert (result.ended_by, result.exit_code, result.delivered) == ("waiting", 4, 0)
    assert PATIENCE_S < result.seconds < PATIENCE_S + 3
    assert rows(db, "select distinct state, attempts from requests") == [("queued", 0)]
    assert result.queued == 2
    (warning,) = look.said
    assert "pool.sockets" in warning
    before, meanwhile = look.short
    assert before is None
    assert meanwhile is not None
    assert meanwhile.startswith("local:")
    assert "pool.sockets" in meanwhile
    assert site.stats().opened == 0


def test_a_shortage_that_is_over_costs_the_next_run_of_the_session_no_patience(
    tmp_path: Path,
) -> None:
    db, site = tmp_path / "x.db", Site(addresses=2)
    site.add("/", links("/1").slow(1.2), at=1)
    site.add("/1", links(), at=1)

    async def scene() -> list[CrawlResult]:
        async with site, await Session.open(db, starved(robots=NO_ROBOTS)) as session:
            assert session._clients.budget.try_acquire()
            first = await session.crawl(walker([site.url("/", 0)]))
            assert rows(db, "select state, attempts from requests") == [("queued", 0)]
            session._clients.budget.release()
            return [first, await session.crawl(walker([site.url("/", 1)]))]

    ends = [(end.ended_by, end.delivered) for end in run_loop(scene())]
    assert ends == [("waiting", 0), ("finished", 2)]


def test_proxies_that_all_rest_are_no_reason_to_leave_another_domain_alone(tmp_path: Path) -> None:
    """Nothing can be sent to the first, while the second takes its time."""
    db, dead = tmp_path / "x.db", ["http://{}:{}".format(*dead_address()) for _ in range(2)]
    site = Site(addresses=2)
    site.add("/", links("/1").slow(1.2), at=1)
    site.add("/1", links(), at=1)

    async def scene() -> CrawlResult:
        async with site:
            named = {site.addresses[0]: DomainSettings(proxies=tuple(dead))}
            own = starved(pool=PoolSettings(), robots=NO_ROBOTS, domains=named)
            return await crawl(walker([site.url("/", 0), site.url("/", 1)]), db=db, settings=own)

    result: CrawlResult = run_loop(scene())
    assert (result.ended_by, result.delivered) == ("waiting", 2)
    assert rows(db, "select domain from requests where state = 'queued'") == [(site.addresses[0],)]


# ── one domain under two names ───────────────────────────────────────────────────────────


def test_a_name_with_its_last_dot_is_the_same_domain_and_keeps_it_in_the_host_field(
    tmp_path: Path,
) -> None:
    db, site = tmp_path / "x.db", Site({"/": links("/1", "/2"), "/1": links(), "/2": links()})
    with site.threaded():
        port = site.url("").rpartition(":")[2]
        names = [f"shop.example.:{port}", f"shop.example:{port}"]
        own = Settings(resolve={"shop.example": "127.0.0.1"})
        result = crawl_sync(walker(f"http://{name}/" for name in names), db=db, settings=own)
    assert result.delivered == 6
    assert rows(db, "select distinct domain from requests") == [(names[1],)]
    assert rows(db, "select domain, requests, clients from v_pools") == [(names[1], 8, 1)]
    assert value(db, "select clients_peak from v_runs") == 1
    assert sorted((entry.host, entry.path) for entry in site.log) == sorted(
        (name, path) for name in names for path in ("/robots.txt", "/", "/1", "/2")
    )


def test_a_run_whose_store_failed_has_ended_by_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        store = await SqliteStore.open(tmp_path / "a.db")
        async with Session(store, Settings()) as own:
            running = await own.begin(walker([site.url("/")], Filling))
            Filling.store = store
            with pytest.raises(StorageError, match="full"):
                await own.ended(running)

    class Filling(Walk):
        store: ClassVar[SqliteStore]

        def parse(self, page: Response) -> Results:
            ((used,),) = self.store._writing.execute("PRAGMA page_count")
            self.store._writing.execute(f"PRAGMA max_page_count = {used}")
            yield {"text": "x" * 1_000_000}

    with Site({"/": links("/")}).threaded() as site:
        run_loop(main())
    assert rows(tmp_path / "a.db", "select state, ended_by from runs") == [("interrupted", "error")]
    assert report(tmp_path / "a.db").startswith("filling-1 interrupted (error) after")
