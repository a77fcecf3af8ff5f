"""The pool's invariants by number: which test holds each of them, and those held here."""

from __future__ import annotations

import asyncio
import random
import types
from contextlib import suppress
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import FetchError
from crawler.pool import ClientCache, ClientKey, Deadlines, Resolver, TlsContexts, TlsProfile
from crawler.pool.sockets import SWEEP_S
from crawler.urls import canonicalise
from tests.pool_network import Network
from tests.pool_server import OK, Peer, Server, hang
from tests.wire import CA_FILE, Wire, fetch, good_context, on_each_wire, open_cache, turns, until

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

MACHINE = "test_pool_machine:PoolMachine."
BOUNDS = MACHINE + "invariants_01_to_08_bounds_and_generations"
AT_REST = "test_pool_machine:PoolMachine.at_rest"
SENT_AGAIN = MACHINE + "invariants_14_and_15_what_is_sent_again"
COUNTERS = MACHINE + "invariants_13_and_23_the_counters"
JUDGE = MACHINE + "invariants_12_and_19_a_request_fails_only_for_what_the_world_did"
HERE = "test_pool_invariants:"

INVARIANTS: dict[int, tuple[str, ...]] = {
    1: (BOUNDS, "test_pool_clients:test_the_bound_of_a_domain_is_never_exceeded"),
    2: (BOUNDS, "test_pool_wire:test_ten_hosts_share_four_sockets_by_closing_the_longest_idle"),
    3: (
        AT_REST,
        "test_pool_clients:test_after_the_end_no_descriptor_is_left_and_no_lease_is_given",
    ),
    4: (BOUNDS, "test_pool_wire_ends:test_row_27_leases_and_answers_are_given_back_once"),
    5: (
        BOUNDS,
        AT_REST,
        "test_pool_leases:test_a_retired_key_in_use_keeps_its_place_until_its_last_release",
    ),
    6: (BOUNDS, "test_pool_leases_machine:LeaseMachine.agrees_with_the_model"),
    7: (
        MACHINE + "take",
        "test_pool_clients:test_the_least_recently_used_client_goes_and_a_leased_one_never",
    ),
    8: (MACHINE + "take", "test_pool_leases_machine:LeaseMachine.current"),
    9: (
        MACHINE + "finish",
        "test_pool_budget:test_waiters_are_served_in_order_and_nobody_barges_in",
    ),
    10: (AT_REST, "test_pool_wire_ends:test_row_20_a_failure_lets_the_next_one_in"),
    11: (
        HERE + "test_11_cancelled_at_any_await_nothing_is_lost_and_nobody_else_is_hurt",
        "test_pool_through_proxy:"
        "test_a_request_cancelled_at_any_turn_of_the_loop_leaves_nothing_open",
    ),
    12: (JUDGE, HERE + "test_12_one_client_or_many_make_no_difference_to_what_is_fetched"),
    13: (COUNTERS, "test_pool_clients:test_new_and_reused_connections_are_counted_exactly"),
    14: (
        SENT_AGAIN,
        "test_pool_wire_reuse:test_row_01_a_stale_connection_is_replayed_once_and_a_post_is_not",
    ),
    15: (
        SENT_AGAIN,
        "test_pool_wire_reuse:test_row_01_a_replay_is_never_replayed",
        "test_pool_wire_reuse:test_row_01_nothing_is_replayed_after_the_first_byte_of_an_answer",
        "test_pool_wire_reuse:test_row_01_a_fresh_connection_is_never_replayed",
    ),
    16: (
        AT_REST,
        "test_pool_wire_reuse:test_row_26_keep_alive_ends_by_the_clock_swept_or_not",
        HERE + "test_16_a_short_keep_alive_beside_a_long_one_is_swept_in_time",
    ),
    17: (AT_REST, "test_pool_wire_deadlines:test_a_slow_server_is_left_in_time"),
    18: (
        MACHINE + "invariant_18_what_nobody_reads_is_bounded",
        "test_pool_wire:test_a_reader_who_stops_makes_the_server_stop",
        "test_pool_decode:test_a_bomb_stops_at_the_limit_and_costs_little_memory",
    ),
    19: (
        JUDGE,
        "test_pool_wire:test_a_machine_without_descriptors_is_a_local_error_and_shrinks_the_budget",
    ),
    20: (
        HERE + "test_20_equal_hosts_have_one_key",
        HERE + "test_20_a_trailing_dot_makes_no_other_key",
    ),
    21: (HERE + "test_21_new_domains_build_no_tls_context",),
    22: (
        MACHINE + "shut",
        "test_pool_wire_ends:test_row_22_closing_the_cache_ends_what_has_not_begun",
        HERE + "test_22_who_was_just_given_a_place_opens_nothing_in_a_closed_cache",
    ),
    23: (COUNTERS, HERE + "test_23_the_counters_of_all_clients_add_up_to_the_cache_s"),
    24: (
        "test_pool_resolver:test_many_callers_cause_one_look_up",
        "test_pool_resolver:test_a_cancelled_caller_takes_nothing_from_the_others",
    ),
}


@pytest.mark.parametrize("number", range(1, 25))
def test_every_invariant_has_tests_that_hold_it(number: int) -> None:
    for place in INVARIANTS[number]:
        module, _, name = place.partition(":")
        assert callable(attrgetter(name)(import_module(f"tests.{module}"))), place


# 11: cancellation


@types.coroutine
def cancelled_at(
    place: int, work: Coroutine[Any, Any, Any], *, is_late: bool
) -> Generator[Any, Any, tuple[Any, int]]:
    """Its result and its awaits; cancelled at the one of that number, from 1.

    `is_late`: what it waits for there has come, in the same turn of the loop.
    """
    task = asyncio.current_task()
    assert task is not None
    seen = 0
    error: BaseException | None = None
    while True:
        try:
            step = work.send(None) if error is None else work.throw(error)
        except StopIteration as end:
            return end.value, seen
        error = None
        seen += 1
        if seen == place and is_late and step is not None:
            step.add_done_callback(lambda _: task.cancel())
        elif seen == place:
            task.get_loop().call_soon(task.cancel)
        try:
            yield step
        except BaseException as raised:
            error = raised


async def in_parts(peer: Peer, head: bytes) -> bool:
    for at in range(0, len(OK), 20):
        await peer.send(OK[at : at + 20])
        await turns(2)
    return True


@on_each_wire
@pytest.mark.parametrize("is_late", [False, True], ids=["waiting", "just-served"])
@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("is_whole", [False, True], ids=["in-parts", "at-once"])
def test_11_cancelled_at_any_await_nothing_is_lost_and_nobody_else_is_hurt(
    is_whole: bool, is_secure: bool, is_late: bool, wire: Wire
) -> None:
    async def cancel_at(place: int, server: Server) -> bool:
        """Whether the request had that many awaits."""
        key = ClientKey(server.domain, tls=TlsProfile(ca_file=CA_FILE))
        async with wire.open_cache(contexts=contexts) as cache:
            work = fetch(cache, server.url, key=key, connections=1)
            first = asyncio.ensure_future(_run(cancelled_at(place, work, is_late=is_late)))
            await turns(1)
            posted = fetch(cache, server.url, key=key, method="POST", content=b"x", connections=1)
            second = asyncio.create_task(posted)
            ends = await asyncio.gather(first, second, return_exceptions=True)
            assert isinstance(ends[1], tuple), (place, ends)
            assert cache.stats().stale_replays == 0, "the server is blamed for what we did"
            assert ends[1][:2] == (200, b"ok"), (place, ends)
            assert isinstance(ends[0], tuple | asyncio.CancelledError), (place, ends)
            assert cache.stats().leases == cache.budget.waiting == cache.stats().orphans == 0
            assert (await fetch(cache, server.url, key=key))[:2] == (200, b"ok")
            await until(lambda: cache.budget.stats().open == cache.dialer.sockets.stats().idle)
            assert cache.open_connections(key) <= 1
        await server.until_open(0)
        return not isinstance(ends[0], tuple) or ends[0][1] >= place

    contexts = TlsContexts()

    async def scene() -> None:
        tls = good_context() if is_secure else None
        async with Server(None if is_whole else in_parts, tls=tls) as server:
            place = 1
            while await cancel_at(place, server):
                place += 1
            assert place > 3

    wire.play(scene)


async def _run(work: Any) -> Any:
    return await work


# 12: eviction


def test_12_one_client_or_many_make_no_difference_to_what_is_fetched() -> None:
    async def echo(peer: Peer, head: bytes) -> bool:
        said = head.splitlines()
        seen = [said[0], *sorted(line for line in said if line.startswith(b"cookie"))]
        body = b"|".join(seen)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        return True

    async def crawl(limit: int, servers: list[Server]) -> tuple[list[bytes], int, int]:
        dice = random.Random(3)
        bodies = []
        async with open_cache(limit) as cache:
            for page in range(60):
                server = dice.choice(servers)
                cookie = {"cookie": f"of={server.host}"}
                url = f"{server.url}{page}"
                key = ClientKey(server.domain)
                lease = cache.lease(key)
                answer = await lease.client.exchange("GET", url, headers=cookie.items())
                bodies.append(b"".join([part async for part in answer]))
                lease.release()
            stats = cache.stats()
        return bodies, stats.evictions, stats.new_connections

    async def scene() -> None:
        servers = [Server(echo, host=f"127.0.0.{n}") for n in range(1, 6)]
        for server in servers:
            await server.__aenter__()
        few, evictions, opened = await crawl(1, servers)
        many, none, five = await crawl(64, servers)
        assert few == many
        assert (none, five) == (0, 5)
        assert evictions == opened - 1 > 30
        for server in servers:
            await server.__aexit__(None, None, None)

    asyncio.run(scene())


# 16: idle connections


def test_16_a_short_keep_alive_beside_a_long_one_is_swept_in_time() -> None:
    network = Network()
    loop = network.loop
    resolver = Resolver(overrides={"long.test": "127.0.0.1", "short.test": "127.0.0.2"})
    with loop.inside():
        cache = ClientCache(resolver=resolver, clock=loop.time, keepalive=15.0)

    async def get(host: str) -> None:
        lease = cache.lease(ClientKey(host))
        answer = await lease.client.exchange("GET", f"http://{host}/1", headers=[])
        await anext(answer)
        lease.release()

    try:
        for host, field in (("long.test", b""), ("short.test", b"Keep-Alive: timeout=3\r\n")):
            task = loop.create_task(get(host))
            loop.settle()
            network.lines[-1].say(b"HTTP/1.1 200 OK\r\n%bContent-Length: 2\r\n\r\nok" % field)
            network.lines[-1].answered()
            loop.settle()
            task.result()
        first, second = network.lines
        loop.settle(3.0 - 1.0 + SWEEP_S)
        assert (first.is_closed, second.is_closed) == (False, True)
        loop.settle(15.0 + SWEEP_S)
        assert first.is_closed
        assert cache.stats().open_connections == 0
    finally:
        loop.run_until_complete(cache.aclose())
        loop.close()


# 17: a deadline that passes just as its connection is closed


@on_each_wire
def test_17_a_total_deadline_closes_its_connection_and_says_so(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(hang) as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            deadlines = Deadlines(total=0.05)
            for _ in range(2):
                with pytest.raises(FetchError) as caught:
                    await lease.client.exchange("GET", server.url, headers=[], deadlines=deadlines)
                assert caught.value.code == "total-timeout", caught.value
            lease.release()
            await until(lambda: cache.budget.stats().open == 0)
            await server.until_open(0)

    wire.play(scene)


# 20: keys

SPELLINGS = st.sampled_from(
    (
        ("shop.example", ("shop.example", "SHOP.Example", "shop。example", "ｓhop.example")),
        ("xn--bcher-kva.example", ("bücher.example", "BÜCHER.example", "xn--bcher-kva.EXAMPLE")),
        ("127.0.0.1", ("127.0.0.1", "0x7f.1", "2130706433", "127.1")),
        ("[::1]", ("[::1]", "[0:0:0:0:0:0:0:1]", "[::0001]")),
    )
)


@given(
    SPELLINGS,
    st.data(),
    st.sampled_from((("http", ":80"), ("https", ":443"))),
    st.sampled_from(("", "user@", "user:secret@")),
    st.sampled_from(("", "/", "/a/../b?c", "#d")),
)
def test_20_equal_hosts_have_one_key(
    host: tuple[str, tuple[str, ...]],
    data: st.DataObject,
    scheme: tuple[str, str],
    login: str,
    rest: str,
) -> None:
    domain, spellings = host
    written = data.draw(st.sampled_from(spellings))
    port = data.draw(st.sampled_from(("", ":", scheme[1], ":8080")))
    expected = f"{domain}:8080" if port == ":8080" else domain
    key = ClientKey(canonicalise(f"{scheme[0]}://{login}{written}{port}{rest}").domain)
    assert key == ClientKey(expected)
    assert hash(key) == hash(ClientKey(expected))
    assert ClientKey(canonicalise(f"{scheme[0]}://{key.domain}/").domain) == key


def test_20_a_trailing_dot_makes_no_other_key() -> None:
    assert canonicalise("http://shop.example./").domain == "shop.example"


# 21: TLS contexts


def test_21_new_domains_build_no_tls_context() -> None:
    async def scene() -> None:
        contexts = TlsContexts()
        profiles = (TlsProfile(), TlsProfile(verify=False), TlsProfile(ca_file=CA_FILE))
        for profile in profiles:
            contexts.context(profile)
        names = {f"host-{number}.test": "127.0.0.1" for number in range(40)}
        async with (
            Server(tls=good_context()) as server,
            open_cache(16, contexts=contexts, resolver=Resolver(overrides=names)) as cache,
        ):
            for number in range(10_000):
                cache.lease(ClientKey(f"no-{number}.test", tls=profiles[number % 3])).release()
            for name in names:
                url = f"https://{name}:{server.port}/"
                key = ClientKey(f"{name}:{server.port}", tls=TlsProfile(verify=False))
                assert await fetch(cache, url, key=key) == (200, b"ok", False)
            assert server.connections == len(names)
        stats = contexts.stats()
        assert (stats.built, stats.asked) == (3, 3 + len(names))

    asyncio.run(scene())


# 22: shutdown


@on_each_wire
@pytest.mark.parametrize("wait", range(4))
def test_22_who_was_just_given_a_place_opens_nothing_in_a_closed_cache(
    wait: int, wire: Wire
) -> None:
    async def scene() -> None:
        async with (
            Server(hang) as server,
            Server(host="127.0.0.2") as other,
            wire.open_cache() as cache,
        ):
            await fetch(cache, other.url)
            first, second = (
                asyncio.create_task(fetch(cache, server.url, connections=1)) for _ in range(2)
            )
            await server.until_heads(1)
            await turns(5)
            first.cancel()
            await turns(wait)
            try:
                async with asyncio.timeout(1):
                    await cache.aclose()
                    with suppress(asyncio.CancelledError):
                        await first
                    with pytest.raises(FetchError, match="cancelled"):
                        await second
            finally:
                second.cancel()
            assert cache.budget.stats().open == 0
            assert len(server.heads) == 1

    wire.play(scene)


# 23: counters


@on_each_wire
def test_23_the_counters_of_all_clients_add_up_to_the_cache_s(wire: Wire) -> None:
    async def closing(peer: Peer, head: bytes) -> bool:
        await peer.send(OK)
        return len(peer.server.heads) % 3 != 0

    async def scene() -> None:
        servers = [Server(closing, host=f"127.0.0.{n}") for n in range(1, 5)]
        for server in servers:
            await server.__aenter__()
        pools = {}
        dice = random.Random(9)
        async with wire.open_cache(2) as cache:
            for _ in range(40):
                server = dice.choice(servers)
                lease = cache.lease(ClientKey(server.domain))
                pool = pools[lease.generation] = lease.client.transport.pool
                before = pool.stats()
                answer = await lease.client.exchange("GET", server.url, headers=[])
                assert [part async for part in answer]
                after = pool.stats()
                assert after.new_connections + after.reused_connections == 1 + (
                    before.new_connections + before.reused_connections
                )
                lease.release()
            stats = cache.stats()
            assert stats.new_connections + stats.reused_connections == 40
            assert stats.new_connections == sum(server.connections for server in servers)
            assert stats.evictions == len(pools) - 2
        assert cache.stats().new_connections == stats.new_connections
        for server in servers:
            await server.__aexit__(None, None, None)

    wire.play(scene)
