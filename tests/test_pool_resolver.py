"""Names: one look-up each, what is remembered for how long, and the policy that sees all."""

from __future__ import annotations

import asyncio
import errno
import queue
import resource
import socket
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import FetchError, SettingsError
from crawler.pool.resolver import Address, Resolver, interleave

ROOT = Path(__file__).parent.parent
GIVE_UP_S = 20.0
"""Within which a held thread or a child process must have come to its end."""

V4 = socket.AF_INET
V6 = socket.AF_INET6


def answer(*literals: str) -> list[tuple[Any, ...]]:
    """What getaddrinfo says of these addresses."""
    return [
        (V6, socket.SOCK_STREAM, 6, "", (literal, 80, 0, 0))
        if ":" in literal
        else (V4, socket.SOCK_STREAM, 6, "", (literal, 80))
        for literal in literals
    ]


class System:
    """Names as the machine knows them: blocking, counted, and to be held."""

    def __init__(self, **hosts: list[str] | BaseException) -> None:
        self.hosts = hosts
        self.asked: list[str] = []
        self.threads: set[str] = set()
        self.begun: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, host: str, port: int) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        self.threads.add(threading.current_thread().name)
        self.begun.put(host)
        assert self.gate.wait(GIVE_UP_S)
        found = self.hosts[host]
        if isinstance(found, BaseException):
            raise found
        return answer(*found)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def unknown() -> socket.gaierror:
    return socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def literals(resolver: Resolver, host: str) -> list[str]:
    return [address.literal for address in await resolver.resolve(host, 80)]


def ask(resolver: Resolver, host: str, port: int = 80) -> tuple[Address, ...]:
    """One question, in a loop of its own; the resolver is closed."""

    async def scene() -> tuple[Address, ...]:
        try:
            return await resolver.resolve(host, port)
        finally:
            resolver.close()

    return asyncio.run(scene())


# -- literals and overrides -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "family", "sockaddr"),
    [
        ("127.0.0.1", V4, ("127.0.0.1", 8080)),
        ("::1", V6, ("::1", 8080, 0, 0)),
        ("[::1]", V6, ("::1", 8080, 0, 0)),
        ("0:0:0:0:0:0:0:1", V6, ("::1", 8080, 0, 0)),
        ("[::ffff:127.0.0.1]", V6, ("::ffff:127.0.0.1", 8080, 0, 0)),
    ],
)
def test_a_literal_is_its_own_address(host: str, family: int, sockaddr: tuple[Any, ...]) -> None:
    system = System()
    resolver = Resolver(look_up=system)
    before = threading.active_count()
    assert ask(resolver, host, 8080) == (Address(family, sockaddr),)
    assert (system.asked, resolver.stats().misses) == ([], 0)
    assert threading.active_count() == before


@pytest.mark.parametrize("host", ["127.1", "2130706433", "017700000001", "0x7f.1", "[127.0.0.1]"])
def test_an_odd_spelling_is_a_name_and_its_address_is_judged(host: str) -> None:
    resolver = Resolver(look_up=System(**{host: ["127.0.0.1"]}), policy=lambda *_: "loopback")
    with pytest.raises(FetchError, match=r"127\.0\.0\.1 is refused: loopback"):
        ask(resolver, host)


@pytest.mark.parametrize("host", ["fe80::1%eth0", "[fe80::1%25lo]", "a%b"])
def test_a_zone_id_is_refused(host: str) -> None:
    with pytest.raises(FetchError, match="zone id") as caught:
        ask(Resolver(look_up=System()), host)
    assert caught.value.code == "address"


def test_the_system_knows_localhost() -> None:
    found = ask(Resolver(), "localhost", 81)
    assert {address.literal for address in found} <= {"127.0.0.1", "::1"}
    assert {address.sockaddr[1] for address in found} == {81}


def test_overrides_win_whatever_the_case_and_the_trailing_dot() -> None:
    async def scene() -> None:
        system = System()
        resolver = Resolver(
            overrides={"Shop.Test.": "127.0.0.2", "two.test": "127.0.0.3, [::1]"}, look_up=system
        )
        assert await literals(resolver, "SHOP.test") == ["127.0.0.2"]
        assert await literals(resolver, "shop.test.") == ["127.0.0.2"]
        assert await literals(resolver, "two.test") == ["127.0.0.3", "::1"]
        assert system.asked == []
        resolver.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("host", "value"),
    [
        ("shop.test", "localhost"),
        ("shop.test", ""),
        ("shop.test", "127.0.0.1,"),
        ("shop.test", "fe80::1%eth0"),
        ("shop.test", "127.0.0.1:80"),
        ("127.0.0.1", "127.0.0.2"),
        ("", "127.0.0.2"),
    ],
)
def test_an_override_that_is_none_names_its_key(host: str, value: str) -> None:
    with pytest.raises(SettingsError, match=repr(host)):
        Resolver(overrides={host: value})


@pytest.mark.parametrize("bounds", [{"threads": 0}, {"limit": 0}])
def test_no_threads_or_no_memory_is_a_mistake(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="resolve nothing"):
        Resolver(threads=bounds.get("threads", 1), limit=bounds.get("limit", 1))


# -- the policy -------------------------------------------------------------------------------


def test_the_policy_sees_every_address_of_every_kind() -> None:
    async def scene() -> None:
        seen: list[tuple[str, int, str]] = []
        system = System(**{"a.test": ["192.0.2.1", "::ffff:10.0.0.1"]})
        resolver = Resolver(
            overrides={"o.test": "127.0.0.2,127.0.0.3"},
            policy=lambda *what: seen.append(what),
            look_up=system,
        )
        for host in ("192.0.2.9", "[::1]", "o.test", "a.test"):
            await resolver.resolve(host, 443)
        assert sorted(seen) == [
            ("192.0.2.9", 443, "192.0.2.9"),
            ("[::1]", 443, "::1"),
            ("a.test", 443, "192.0.2.1"),
            ("a.test", 443, "::ffff:10.0.0.1"),
            ("o.test", 443, "127.0.0.2"),
            ("o.test", 443, "127.0.0.3"),
        ]
        seen.clear()
        await resolver.resolve("a.test", 22)
        assert {port for _, port, _ in seen} == {22}, "a cached answer is judged too"
        resolver.close()

    asyncio.run(scene())


def test_one_refused_address_refuses_the_whole_answer() -> None:
    def policy(host: str, port: int, address: str) -> str | None:
        return "private" if address.startswith("10.") else None

    system = System(**{"split.test": ["192.0.2.1", "10.0.0.1"]})
    with pytest.raises(FetchError) as caught:
        ask(Resolver(policy=policy, look_up=system), "split.test")
    assert caught.value.code == "address"
    assert "split.test: 10.0.0.1 is refused: private" in str(caught.value)


def test_what_is_no_ip_literal_is_no_answer() -> None:
    """Else connecting to it would ask again, past the policy."""

    def look_up(host: str, port: int) -> list[tuple[Any, ...]]:
        unix = (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", "/run/x")
        return [unix, *answer("evil.test", "fe80::1%lo"), *answer(*found)]

    found = ["192.0.2.1", "192.0.2.1"]
    assert [a.literal for a in ask(Resolver(look_up=look_up), "a.test")] == ["192.0.2.1"]
    found = []
    with pytest.raises(socket.gaierror) as caught:
        ask(Resolver(look_up=look_up), "a.test")
    assert caught.value.errno == socket.EAI_NONAME


def test_a_host_of_a_thousand_addresses_has_sixty_four_of_both_families() -> None:
    many = [f"2001:db8::{n:x}" for n in range(1, 500)] + [f"192.0.2.{n}" for n in range(1, 250)]
    found = ask(Resolver(look_up=System(**{"many.test": many})), "many.test")
    assert [address.family for address in found] == [V6, V4] * 32


# -- one look-up --------------------------------------------------------------------------------


def test_many_callers_cause_one_look_up() -> None:
    async def scene() -> None:
        system = System(**{"a.test": ["192.0.2.1"]})
        system.gate.clear()
        resolver = Resolver(look_up=system)
        tasks = [asyncio.create_task(literals(resolver, host)) for host in ["a.test", "A.TEST"] * 9]
        await asyncio.sleep(0)
        assert repr(resolver) == "<Resolver 0 cached, 1 being looked up>"
        system.gate.set()
        assert await asyncio.gather(*tasks) == [["192.0.2.1"]] * 18
        assert system.asked == ["a.test"]
        stats = resolver.stats()
        assert (stats.misses, stats.joined, stats.hits) == (1, 17, 0)
        assert (stats.looking_up, stats.cached) == (0, 1)
        assert system.threads == {"crawler-dns-0"}
        resolver.close()

    asyncio.run(scene())


@pytest.mark.parametrize("cancelled", [{0}, {1}, {0, 2}, {0, 1, 2}])
def test_a_cancelled_caller_takes_nothing_from_the_others(cancelled: set[int]) -> None:
    async def scene() -> None:
        system = System(**{"a.test": ["192.0.2.1"]})
        system.gate.clear()
        resolver = Resolver(look_up=system)
        tasks = [asyncio.create_task(literals(resolver, "a.test")) for _ in range(3)]
        await asyncio.sleep(0)
        for place in cancelled:
            tasks[place].cancel()
        await asyncio.sleep(0)
        last = asyncio.create_task(literals(resolver, "a.test"))
        system.gate.set()
        assert await last == ["192.0.2.1"]
        for place, task in enumerate(tasks):
            if place in cancelled:
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                assert await task == ["192.0.2.1"]
        await resolver.resolve("a.test", 80)
        assert system.asked == ["a.test"], "the look-up went on, and was remembered"
        resolver.close()

    asyncio.run(scene())


def test_every_waiter_gets_an_error_of_its_own() -> None:
    async def scene() -> None:
        resolver = Resolver(look_up=System(**{"no.test": unknown()}))
        first = await asyncio.gather(
            *(resolver.resolve("no.test", 80) for _ in range(5)), return_exceptions=True
        )
        again = await asyncio.gather(resolver.resolve("no.test", 80), return_exceptions=True)
        errors = [*first, *again]
        assert len(set(map(id, errors))) == 6
        for error in errors:
            assert isinstance(error, socket.gaierror)
            assert error.args == (socket.EAI_NONAME, "Name or service not known")
        stats = resolver.stats()
        assert (stats.failures, stats.negative_hits, stats.joined) == (1, 1, 4)
        resolver.close()

    asyncio.run(scene())


def test_threads_are_begun_as_needed_and_bounded() -> None:
    async def scene() -> None:
        names = [f"h{n}.test" for n in range(12)]
        system = System(**{name: ["192.0.2.1"] for name in names})
        resolver = Resolver(look_up=system, threads=3)
        before = set(threading.enumerate())
        for name in names[:4]:
            await resolver.resolve(name, 80)
        begun = set(threading.enumerate()) - before
        assert len(begun) == 1, "one after another needs one thread"
        system.gate.clear()
        tasks = [asyncio.create_task(resolver.resolve(name, 80)) for name in names[4:]]
        await asyncio.sleep(0)
        system.gate.set()
        await asyncio.gather(*tasks)
        assert len(system.threads) <= 3
        assert sorted(system.asked) == sorted(names)
        resolver.close()

    asyncio.run(scene())


def test_the_loop_s_own_executor_is_not_used() -> None:
    async def scene() -> None:
        resolver = Resolver()
        await resolver.resolve("localhost", 80)
        names = {thread.name for thread in threading.enumerate()}
        assert "crawler-dns-0" in names
        assert not [name for name in names if name.startswith("asyncio")]
        resolver.close()

    asyncio.run(scene())


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


# -- the end ---------------------------------------------------------------------------------


def test_closing_ends_every_wait_and_every_idle_thread() -> None:
    async def scene() -> None:
        resolver = Resolver(look_up=system, threads=1)
        await resolver.resolve("a.test", 80)
        system.gate.clear()
        stuck = [
            asyncio.create_task(resolver.resolve(host, 80))
            for host in ("b.test", "b.test", "queued.test")
        ]
        while await asyncio.to_thread(system.begun.get, timeout=GIVE_UP_S) != "b.test":
            pass
        resolver.close()
        resolver.close()
        for wait in (*stuck, resolver.resolve("a.test", 80), resolver.resolve("127.0.0.1", 80)):
            with pytest.raises(FetchError) as caught:
                await wait
            assert caught.value.code == "cancelled"
        assert resolver.stats().looking_up == 0
        system.gate.set()

    system = System(**{host: ["192.0.2.1"] for host in ("a.test", "b.test", "queued.test")})
    before = set(threading.enumerate())
    asyncio.run(scene())
    for thread in set(threading.enumerate()) - before:
        thread.join(GIVE_UP_S)
        assert not thread.is_alive()
    assert system.asked == ["a.test", "b.test"]


def test_a_look_up_that_ends_after_its_loop_harms_nobody() -> None:
    before = set(threading.enumerate())
    system = System(**{"a.test": ["192.0.2.1"]})
    system.gate.clear()
    resolver = Resolver(look_up=system)

    async def scene() -> None:
        task = asyncio.create_task(resolver.resolve("a.test", 80))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(scene())
    resolver.close()
    system.gate.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(GIVE_UP_S)
        assert not thread.is_alive()


STUCK = """
import asyncio, threading
from crawler.errors import FetchError
from crawler.pool.resolver import Resolver

begun = threading.Semaphore(0)

def look_up(host, port):
    begun.release()
    threading.Event().wait()

async def main():
    loop = asyncio.get_running_loop()
    resolver = Resolver(look_up=look_up)
    tasks = [loop.create_task(resolver.resolve(f"h{n}.test", 80)) for n in range(40)]
    await asyncio.sleep(0)
    for _ in range(16):
        assert begun.acquire(timeout=10)
    assert not begun.acquire(blocking=False), "more than 16 threads"
    if CLOSED:
        resolver.close()
        for task in tasks:
            try:
                await task
            except FetchError as error:
                assert error.code == "cancelled"

asyncio.run(main())
print("ended")
"""


@pytest.mark.parametrize("is_closed", [True, False])
def test_sixteen_stuck_look_ups_hold_up_neither_close_nor_exit(is_closed: bool) -> None:
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", STUCK.replace("CLOSED", str(is_closed))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=GIVE_UP_S,
        check=False,
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "ended\n", "")


def test_a_look_up_is_timed_by_the_clock_given() -> None:
    clock = Clock()

    def slow(host: str, port: int) -> list[tuple[Any, ...]]:
        clock.now += 2.5
        return answer("192.0.2.1")

    resolver = Resolver(look_up=slow, clock=clock)
    ask(resolver, "a.test")
    assert resolver.stats().look_up_s == 2.5
