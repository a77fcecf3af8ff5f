"""Names: one look-up each, and the policy that sees every address."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from crawler.errors import FetchError, SettingsError
from crawler.pool.resolver import Address, Resolver
from tests.names import GIVE_UP_S, ROOT, V4, V6, Clock, System, answer, ask, literals, unknown

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
