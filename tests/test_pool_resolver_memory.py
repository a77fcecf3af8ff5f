"""Names: what is remembered for how long, and the order in which addresses are tried."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.pool.resolver import Address, Resolver, interleave
from tests.names import V4, V6, Clock, System, ask, literals, unknown

# -- what is remembered --------------------------------------------------------------------------


def test_an_answer_lasts_its_time_give_or_take_a_tenth() -> None:
    async def scene() -> None:
        clock = Clock()
        names = [f"h{n}.test" for n in range(100)]
        system = System(**{name: ["192.0.2.1"] for name in names})
        resolver = Resolver(look_up=system, clock=clock, positive_s=300.0)
        for name in names:
            await resolver.resolve(name, 80)
        clock.now += 269.9
        for name in names:
            await resolver.resolve(name, 80)
        assert len(system.asked) == 100
        clock.now += 30.1
        for name in names:
            await resolver.resolve(name, 80)
        assert 110 < len(system.asked) < 190, "they do not all expire at once"
        clock.now += 330.1
        await resolver.resolve("h0.test", 80)
        assert system.asked.count("h0.test") >= 2
        assert resolver.stats().hits >= 110
        resolver.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("error", "lasts"),
    [
        (unknown(), 30.0),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), 1.0),
        (socket.gaierror(socket.EAI_FAIL, "Non-recoverable"), 1.0),
        (socket.gaierror("without a code"), 1.0),
        (OSError(errno.ECONNREFUSED, "Connection refused"), 1.0),
        (RuntimeError("a resolver's bug"), 1.0),
        (UnicodeError("label too long"), 30.0),
    ],
)
def test_a_failure_lasts_as_long_as_its_kind(error: BaseException, lasts: float) -> None:
    async def scene() -> None:
        clock = Clock()
        system = System(**{"a.test": error})
        resolver = Resolver(look_up=system, clock=clock, negative_s=30.0)
        for step in (0.0, lasts - 0.01):
            clock.now += step
            with pytest.raises(socket.gaierror):
                await resolver.resolve("a.test", 80)
        assert len(system.asked) == 1
        clock.now += 0.01
        system.hosts["a.test"] = ["192.0.2.1"]
        assert await literals(resolver, "a.test") == ["192.0.2.1"]
        resolver.close()

    asyncio.run(scene())


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test", ""])
def test_what_cannot_be_a_name_is_an_unknown_one(host: str) -> None:
    with pytest.raises(socket.gaierror) as caught:
        ask(Resolver(), host)
    assert caught.value.errno == socket.EAI_NONAME


def test_zero_seconds_remember_nothing() -> None:
    async def scene() -> None:
        system = System(**{"a.test": ["192.0.2.1"]})
        system.hosts["no.test"] = unknown()
        resolver = Resolver(look_up=system, positive_s=0, negative_s=0)
        for _ in range(2):
            await resolver.resolve("a.test", 80)
            with pytest.raises(socket.gaierror):
                await resolver.resolve("no.test", 80)
        assert len(system.asked) == 4
        assert resolver.stats().cached == 0
        resolver.close()

    asyncio.run(scene())


def test_want_of_descriptors_is_told_from_an_unknown_name() -> None:
    async def scene() -> None:
        system = System(**{"a.test": unknown()})
        resolver = Resolver(look_up=system)
        await asyncio.gather(resolver.resolve("a.test", 80), return_exceptions=True)
        resolver.forget("a.test")  # its thread runs by now
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            with pytest.raises(OSError, match="Too many open files") as caught:
                await resolver.resolve("a.test", 80)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert caught.value.errno == errno.EMFILE
        assert not isinstance(caught.value, socket.gaierror)
        assert resolver.stats().cached == 0
        system.hosts["a.test"] = ["192.0.2.1"]
        assert await literals(resolver, "a.test") == ["192.0.2.1"]
        resolver.close()

    asyncio.run(scene())


@given(
    limit=st.integers(1, 6),
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "fail", "forget", "later"]), st.integers(0, 9)),
        max_size=30,
    ),
)
def test_no_more_hosts_are_remembered_than_the_limit(
    limit: int, steps: list[tuple[str, int]]
) -> None:
    async def scene() -> None:
        clock = Clock()
        system = System(**{f"h{n}.test": ["192.0.2.1"] for n in range(10)})
        resolver = Resolver(
            look_up=system, limit=limit, clock=clock, overrides={"h0.test": "127.0.0.2"}
        )
        for what, n in steps:
            host = f"h{n}.test"
            if what == "later":
                clock.now += 40.0 * n
            elif what == "forget":
                resolver.forget(host)
            else:
                system.hosts[host] = unknown() if what == "fail" else ["192.0.2.1"]
                await asyncio.gather(resolver.resolve(host, 80), return_exceptions=True)
                asked = len(system.asked)
                await asyncio.gather(resolver.resolve(host, 80), return_exceptions=True)
                assert len(system.asked) == asked, "the newest stays"
            stats = resolver.stats()
            assert stats.cached <= limit
            assert stats.misses >= stats.failures
        resolver.close()

    asyncio.run(scene())


def test_the_least_recently_used_host_is_forgotten_first() -> None:
    async def scene() -> None:
        system = System(**{f"{name}.test": ["192.0.2.1"] for name in "abc"})
        resolver = Resolver(look_up=system, limit=2)
        for name in "abacab":
            await resolver.resolve(f"{name}.test", 80)
        assert system.asked == ["a.test", "b.test", "c.test", "b.test"]
        resolver.close()

    asyncio.run(scene())


# -- the order of addresses -----------------------------------------------------------------------


def test_the_start_moves_on_and_the_family_does_not() -> None:
    async def scene() -> None:
        system = System(**{"a.test": ["::a", "::b", "192.0.2.1", "192.0.2.2", "192.0.2.3"]})
        resolver = Resolver(look_up=system)
        found = [await literals(resolver, "a.test") for _ in range(3)]
        assert found == [
            ["::a", "192.0.2.1", "::b", "192.0.2.2", "192.0.2.3"],
            ["::b", "192.0.2.2", "::a", "192.0.2.3", "192.0.2.1"],
            ["::a", "192.0.2.3", "::b", "192.0.2.1", "192.0.2.2"],
        ]
        resolver.close()

    asyncio.run(scene())


def test_a_demoted_address_comes_last_until_all_are_or_the_answer_expires() -> None:
    async def scene() -> None:
        clock = Clock()
        system = System(**{"a.test": ["::a", "192.0.2.1", "192.0.2.2"]})
        resolver = Resolver(look_up=system, clock=clock)
        found = {address.literal: address for address in await resolver.resolve("A.test", 80)}
        resolver.demote("A.test", found["::a"])
        for _ in range(4):
            assert (await literals(resolver, "a.test"))[-1] == "::a"
        resolver.demote("a.test", found["192.0.2.1"])
        assert await literals(resolver, "a.test") == ["192.0.2.2", "::a", "192.0.2.1"]
        resolver.demote("a.test", found["::a"])
        assert await literals(resolver, "a.test") == ["192.0.2.2", "192.0.2.1", "::a"]
        resolver.demote("a.test", found["192.0.2.2"])
        assert (await literals(resolver, "a.test"))[0] == "::a", "all failed: none is worse"
        resolver.demote("a.test", found["::a"])
        clock.now += 331.0
        assert (await literals(resolver, "a.test"))[0] == "::a"
        assert len(system.asked) == 2
        resolver.demote("other.test", found["::a"])
        resolver.demote("a.test", Address(V4, ("203.0.113.1", 80)))
        assert len(await literals(resolver, "a.test")) == 3
        resolver.close()

    asyncio.run(scene())


def test_a_forgotten_host_is_looked_up_anew() -> None:
    async def scene() -> None:
        system = System(**{"a.test": ["192.0.2.1"]})
        resolver = Resolver(look_up=system)
        await resolver.resolve("a.test", 80)
        resolver.forget("A.test")
        resolver.forget("never.test")
        system.hosts["a.test"] = ["192.0.2.2"]
        assert await literals(resolver, "a.test") == ["192.0.2.2"]
        resolver.close()

    asyncio.run(scene())


ADDRESSES = st.lists(
    st.one_of(
        st.builds(lambda n: Address(V4, (f"192.0.2.{n}", 80)), st.integers(0, 255)),
        st.builds(lambda n: Address(V6, (f"::{n:x}", 80, 0, 0)), st.integers(1, 255)),
    ),
    unique=True,
    max_size=20,
)


@given(ADDRESSES)
def test_families_alternate_and_keep_their_order(addresses: list[Address]) -> None:
    mixed = interleave(addresses)
    assert sorted(mixed) == sorted(addresses)
    assert mixed[:1] == addresses[:1]
    both = 2 * min(sum(a.family == family for a in addresses) for family in (V4, V6))
    assert all(a.family != b.family for a, b in pairwise(mixed[:both]))
    assert len({a.family for a in mixed[both:]}) <= 1
    for family in (V4, V6):
        assert [a for a in mixed if a.family == family] == [
            a for a in addresses if a.family == family
        ]
    assert interleave(mixed) == mixed
