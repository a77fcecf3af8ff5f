"""What urllib3 and requests say of their pools, held against ours: transports and caches.

Each test is named by its row of the table in docs/pools.md; those of whole crawls are in
`tests/test_pool_seeds_crawls.py`.
"""

from __future__ import annotations

import asyncio
import re
import resource
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from crawler import (
    DomainSettings,
    FetchError,
    PoolSettings,
    Retry,
    Settings,
    SettingsError,
    UsageError,
)
from crawler.cli import main
from crawler.errors import CODES
from crawler.pool import (
    ClientCache,
    ClientKey,
    Dialer,
    PoolTransport,
    SocketBudget,
    TlsProfile,
    connection_of,
    raise_descriptor_limit,
)
from crawler.pool.budget import open_descriptors, restore_descriptor_limit
from crawler.pool.transport import _both as as_httpx
from crawler.retry import GiveUp, Requeue
from crawler.settings import vocabulary
from tests.pool_server import OK, Peer, Server, answering, hang, saying
from tests.wire import exchange, fetch, open_cache, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "pools.md"
POOL = HERE.parent / "crawler" / "pool"
NOW = 1_700_000_000.0


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(5):
            await scene()

    asyncio.run(bounded())


@asynccontextmanager
async def served(count: int) -> AsyncIterator[list[Server]]:
    """That many hosts."""
    async with AsyncExitStack() as stack:
        hosts = [Server(host=f"127.0.0.{n + 1}") for n in range(count)]
        yield [await stack.enter_async_context(host) for host in hosts]


@asynccontextmanager
async def opened(
    **options: Any,
) -> AsyncIterator[tuple[httpx.AsyncClient, PoolTransport]]:
    """An ordinary httpx client over a transport of ours."""
    transport = PoolTransport(**options)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        yield client, transport


def test_the_table_names_every_test_and_no_other() -> None:
    told = re.findall(r"\| `(test_\w+)` \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    source = "".join(file.read_text("utf-8") for file in HERE.glob("test_pool_seeds*.py"))
    here = re.findall(r"^def (test_\w+)", source, re.MULTILINE)
    assert sorted(told) == sorted(name for name in here if not name.startswith("test_the_table_"))


def test_the_table_of_errors_has_every_code_that_the_pool_raises() -> None:
    told = re.findall(r"^\| `([a-z-]+)` \| (\w+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    files = (file for file in POOL.glob("*.py") if file.name not in ("__init__.py", "decode.py"))
    source = "".join(file.read_text("utf-8") for file in files)
    raised = {code for code in CODES if f'"{code}"' in source}
    assert sorted(code for code, _ in told) == sorted(raised)
    request = httpx.Request("GET", "http://127.0.0.1/")
    for code, name in told:
        assert isinstance(as_httpx(FetchError(code), request), getattr(httpx, name)), code


def test_the_table_of_settings_has_every_one_of_the_pool() -> None:
    told = set(re.findall(r"`([a-z_]+(?:\.\w+)?)`", PAGE.read_text("utf-8")))
    groups = ("pool.", "timeout.", "head.", "tls.")
    keys = {field.key for field in vocabulary() if field.key.startswith(groups)}
    assert keys <= told


# -- what a pool is ----------------------------------------------------------------------------


def test_a_pool_keeps_connections_and_tells_how_many_requests_found_one() -> None:
    async def scene() -> None:
        async with Server() as server, opened() as (client, transport):
            for _ in range(5):
                assert (await client.get(server.url)).text == "ok"
            stats = transport.stats()
            assert (stats.new_connections, stats.reused_connections) == (1, 4)
            assert server.connections == 1

    play(scene)


def test_hosts_beyond_the_clients_are_evicted_and_their_return_is_counted() -> None:
    async def scene() -> None:
        async with served(3) as hosts, open_cache(2) as cache:
            for host in (*hosts, *hosts):
                assert not (await fetch(cache, host.url)).reused
            stats = cache.stats()
            assert (stats.evictions, stats.misses_after_evict) == (4, 3)
        async with served(3) as hosts, open_cache(3) as cache:
            reused = [(await fetch(cache, host.url)).reused for host in (*hosts, *hosts)]
            assert reused == [False] * 3 + [True] * 3
            assert cache.stats().misses_after_evict == 0

    play(scene)


def test_the_longest_pattern_of_a_domain_wins_and_config_explains_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    patterns = {
        "*.example.com": DomainSettings(concurrency=4, delay=2),
        "shop.example.com": DomainSettings(concurrency=1),
    }
    settings = Settings(domains=patterns)
    chosen = settings.for_domain("shop.example.com:8000")
    assert (chosen.concurrency, chosen.delay) == (1, 2)
    flags = [
        *("-s", 'domains."*.example.com".concurrency=4', "-s", 'domains."*.example.com".delay=2'),
        *("-s", "domains.shop.example.com.concurrency=1"),
    ]
    assert main(["config", "--domain", "Shop.example.com:8000", *flags]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines[:2] == [
        ['domains."shop.example.com".concurrency', "1", "-s"],
        ['domains."*.example.com".delay', "2.0", "-s"],
    ]
    assert len(lines) == len(DomainSettings.types)
    assert all(line[0].startswith("domain.") and line[2] == "default" for line in lines[2:])
    assert main(["config", "pool", "--domain", "shop.example.com"]) == 2


def test_connections_to_a_host_never_exceed_their_bound() -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await asyncio.sleep(0)
        await peer.send(OK)
        return True

    async def scene() -> None:
        async with Server(script) as server, opened(connections=3) as (client, transport):
            answers = await asyncio.gather(*(client.get(server.url) for _ in range(20)))
            assert [answer.text for answer in answers] == ["ok"] * 20
            assert server.peak == server.connections == transport.stats().peak == 3

    play(scene)


def test_a_full_pool_makes_wait_discards_nothing_and_waits_no_longer_than_told() -> None:
    async def scene() -> None:
        async with Server() as server, opened(connections=1) as (client, _):
            await asyncio.gather(*(client.get(server.url) for _ in range(10)))
            assert server.connections == 1
            server.script = hang
            first = asyncio.create_task(client.get(server.url))
            await server.until_heads(11)
            with pytest.raises(httpx.PoolTimeout) as caught:
                await client.get(server.url, extensions={"timeout": {"pool": 0.01}})
            assert isinstance(caught.value, FetchError)
            assert caught.value.code == "pool-timeout"
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    play(scene)


def test_a_bound_of_0_is_refused() -> None:
    for wrong in (
        lambda: PoolSettings(clients=0),
        lambda: PoolSettings(sockets=0),
        lambda: DomainSettings(concurrency=0),
        lambda: PoolTransport(connections=0),
    ):
        with pytest.raises(SettingsError, match="1 or more"):
            wrong()
    with pytest.raises(ValueError, match="serves nobody"):
        ClientCache(0)


def test_a_client_that_goes_is_closed_at_once_and_none_goes_that_is_used() -> None:
    async def scene() -> None:
        async with served(3) as (a, b, c), open_cache(2) as cache:
            held = cache.lease(ClientKey(a.domain))
            await held.client.get(a.url)
            await fetch(cache, b.url)
            await fetch(cache, c.url)
            assert cache.open_connections(ClientKey(b.domain)) == 0
            await b.until_open(0)
            assert (a.open, c.open) == (1, 1)
            held.release()

    play(scene)


def test_idle_connections_are_closed_without_another_request() -> None:
    async def scene() -> None:
        now = 0.0
        async with served(2) as (a, b), open_cache(clock=lambda: now) as cache:
            await fetch(cache, a.url)
            now = 10.0
            await fetch(cache, b.url)
            assert cache.sweep(15.5) == 1
            await a.until_open(0)
            b.peers[0].writer.close()
            await until(lambda: cache.stats().open_connections == 0)
            assert cache.stats().peer_closes == 1

    play(scene)


def test_what_a_connection_depends_on_makes_a_client_of_its_own() -> None:
    seen: set[str] = set()

    async def script(peer: Peer, head: bytes) -> bool:
        seen.add(peer.writer.get_extra_info("peername")[0])
        await peer.send(OK)
        return True

    async def scene() -> None:
        async with Server(script) as server, open_cache() as cache:
            plain = ClientKey(server.domain)
            for key in (plain, plain._replace(local_address="127.0.0.9")):
                assert [(await fetch(cache, server.url, key=key)).reused for _ in "ab"] == [
                    False,
                    True,
                ]
            assert seen == {"127.0.0.1", "127.0.0.9"}
            others = (
                plain._replace(proxy="http://127.0.0.1:1"),
                plain._replace(tls=TlsProfile(verify=False)),
                plain._replace(http2=True),
            )
            for key in others:
                cache.lease(key).release()
            assert cache.stats().clients == 5

    play(scene)


# -- bounds, retries, failures -----------------------------------------------------------------


def test_more_hosts_than_sockets_are_all_served_and_nothing_stays_open() -> None:
    async def scene() -> None:
        dialer = Dialer(SocketBudget(2))
        async with served(6) as hosts:
            async with AsyncExitStack() as stack:
                pairs = [await stack.enter_async_context(opened(dialer=dialer)) for _ in hosts]
                answers = await asyncio.gather(
                    *(
                        client.get(host.url)
                        for host, (client, _) in zip(hosts, pairs, strict=True)
                        for _ in range(3)
                    )
                )
                assert [answer.text for answer in answers] == ["ok"] * 18
                assert dialer.stats().budget.peak == 2
            await dialer.aclose()
            assert dialer.stats().budget.open == 0
            for host in hosts:
                await host.until_open(0)

    play(scene)


def test_a_policy_in_the_words_of_urllib3_waits_and_gives_up_as_it_does() -> None:
    policy = Retry.from_urllib3(total=3, backoff_factor=0.3, status_forcelist=[500, 502, 503, 504])

    def decided(attempt: int, status: int = 500, method: str = "GET", **more: Any) -> Any:
        return policy.decide(method=method, attempt=attempt, now=NOW, status=status, **more)

    waits = [round(decided(attempt).at - NOW, 6) for attempt in (1, 2, 3)]
    assert waits == [0.0, 0.6, 1.2]
    assert isinstance(decided(4), GiveUp)
    assert isinstance(decided(1, status=404), GiveUp)
    assert isinstance(decided(1, method="POST"), GiveUp)
    slowed = decided(1, status=429, retry_after="7")
    assert (slowed.spent, slowed.domain_for) == (False, 7.0)
    long = Retry.from_urllib3(20, 1, [500], backoff_max=5, backoff_jitter=2)
    late = [
        long.decide(method="GET", attempt=attempt, now=NOW, status=500) for attempt in range(4, 20)
    ]
    assert all(isinstance(one, Requeue) and 5 <= one.at - NOW <= 7 for one in late)
    with pytest.raises(UsageError, match="0 or more"):
        Retry.from_urllib3(total=-1)


def test_a_wait_is_drawn_below_a_bound_that_doubles_and_the_host_rests() -> None:
    policy = Retry(wait=1.0, max_wait=3.0)
    for attempt, bound in ((1, 1.0), (2, 2.0), (3, 3.0)):
        drawn = {policy.rest_s(attempt, NOW) for _ in range(50)}
        assert len(drawn) > 25
        assert all(0 <= wait <= bound for wait in drawn)
    unreachable = policy.decide(
        method="GET", attempt=9, now=NOW, failures=2, error=FetchError("connect-refused")
    )
    assert isinstance(unreachable, Requeue)
    assert unreachable.domain_for is not None
    assert not unreachable.spent


def test_a_host_that_nobody_asks_again_is_the_first_whose_client_goes() -> None:
    async def scene() -> None:
        async with served(3) as (a, b, c), open_cache(2) as cache:
            await fetch(cache, a.url)
            once = cache.lease(ClientKey(b.domain))
            await once.client.get(b.url)
            once.release(is_needed=False)
            await fetch(cache, c.url)
            await b.until_open(0)
            assert (a.open, c.open) == (1, 1)

    play(scene)


def test_the_budget_follows_the_descriptor_limit_and_a_shortage_halves_it() -> None:
    async def scene() -> None:
        async with Server() as server, open_cache(budget=SocketBudget(20)) as cache:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with pytest.raises(FetchError) as caught:
                    await fetch(cache, server.url)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert (caught.value.code, caught.value.fault) == ("local", "local")
            assert (cache.budget.stats().limit, cache.budget.stats().shrunk) == (10, 1)
            assert (await fetch(cache, server.url)).body == b"ok"

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        assert SocketBudget().stats().derived == 200 - open_descriptors() - 50
        assert raise_descriptor_limit()[0] == 200
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 200
    finally:
        restore_descriptor_limit(soft)
    play(scene)


def test_a_body_read_to_its_end_keeps_the_connection_and_one_left_unread_closes_it() -> None:
    async def scene() -> None:
        async with Server() as server, opened() as (client, transport):
            async with client.stream("GET", server.url) as response:
                await response.aread()
                assert transport.stats().idle == 1
            server.script = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            async with client.stream("GET", server.url) as response:
                assert connection_of(response).reused
                assert transport.stats().idle == 0
            await server.until_open(0)
            assert transport.stats().open == 0

    play(scene)


# -- persistent connections ----------------------------------------------------------------------


def test_a_client_is_made_at_the_first_request_to_a_host_and_then_found() -> None:
    async def scene() -> None:
        async with served(2) as hosts, open_cache() as cache:
            for host in (*hosts, *hosts, *hosts):
                await fetch(cache, host.url)
            stats = cache.stats()
            assert (stats.misses, stats.hits, stats.clients) == (2, 4, 2)

    play(scene)


def test_a_connection_comes_back_with_the_last_byte_and_serves_the_next_request() -> None:
    async def scene() -> None:
        async with Server() as server, open_cache() as cache:
            seen = [connection_of((await exchange(cache, server.url))[0]) for _ in range(3)]
            assert [info.reused for info in seen] == [False, True, True]
            assert [info.nth for info in seen] == [1, 2, 3]
            assert [info.connect_s is None for info in seen] == [False, True, True]

    play(scene)


def test_closing_leaves_no_socket_open() -> None:
    async def scene() -> None:
        async with Server() as server:
            before = open_descriptors()
            async with opened(connections=4) as (client, transport):
                await asyncio.gather(*(client.get(server.url) for _ in range(4)))
                assert transport.stats().idle == 4
            await server.until_open(0)
            assert open_descriptors() == before
            with pytest.raises(RuntimeError, match="closed"):
                await client.get(server.url)

    play(scene)


def test_an_idle_connection_gives_way_to_whoever_needs_its_socket() -> None:
    async def scene() -> None:
        dialer = Dialer(SocketBudget(1))
        async with served(2) as (a, b):
            async with opened(dialer=dialer) as (first, _), opened(dialer=dialer) as (second, _):
                for _ in range(2):
                    assert (await first.get(a.url)).text == "ok"
                    assert (await second.get(b.url)).text == "ok"
                assert dialer.stats().sockets.relieved == 3
            await dialer.aclose()

    play(scene)


def test_every_failure_has_a_code_and_is_the_error_that_httpx_would_raise() -> None:
    async def scene() -> None:
        async with Server() as gone:
            refused = gone.url
        async with (
            Server(hang) as silent,
            Server(answering(OK[:-1])) as short,
            opened() as (
                client,
                _,
            ),
        ):
            failures: tuple[tuple[str, dict[str, float], type[Exception], str], ...] = (
                (refused, {}, httpx.ConnectError, "connect-refused"),
                (silent.url, {"read": 0.01}, httpx.ReadTimeout, "head-timeout"),
                (short.url, {}, httpx.RemoteProtocolError, "truncated"),
            )
            for url, timeout, kind, code in failures:
                with pytest.raises(kind) as caught:
                    await client.get(url, extensions={"timeout": timeout})
                assert isinstance(caught.value, FetchError)
                assert (caught.value.code, caught.value.url) == (code, url)

    play(scene)
