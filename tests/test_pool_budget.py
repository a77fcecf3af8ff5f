"""The socket budget: order, ownership, cancellation, shortages and what follows them."""

from __future__ import annotations

import asyncio
import random
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import FetchError
from crawler.pool.budget import (
    SocketBudget,
    derive_limit,
    open_descriptors,
    raise_descriptor_limit,
    restore_descriptor_limit,
)


class Clock:
    """Instants that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_limit_leaves_room_for_what_is_not_a_socket() -> None:
    assert derive_limit(None, 1_000_000, 10) == 1024
    assert derive_limit(8, 1_000_000, 10) == 8
    assert derive_limit(None, 64, 10) == 64 - 10 - 16
    assert derive_limit(None, 1024, 10) == 1024 - 10 - 64
    assert derive_limit(None, 20, 10) == 1
    assert open_descriptors() > 2
    with pytest.raises(ValueError, match="opens none"):
        derive_limit(0, 64, 10)


def test_waiters_are_served_in_order_and_nobody_barges_in() -> None:
    async def scene() -> list[int]:
        budget = SocketBudget(1)
        await budget.acquire()
        served: list[int] = []

        async def want(name: int) -> None:
            await budget.acquire()
            served.append(name)

        tasks = [asyncio.create_task(want(name)) for name in range(3)]
        await asyncio.sleep(0)
        assert budget.waiting == 3
        budget.release()
        late = asyncio.create_task(want(99))  # the token is the first waiter's already
        for _ in range(3):
            await asyncio.sleep(0)
            budget.release()
        await asyncio.gather(*tasks, late)
        budget.release()
        assert budget.stats().open == 0
        assert budget.stats().peak == 1
        return served

    assert asyncio.run(scene()) == [0, 1, 2, 99]


def test_a_waiter_cancelled_after_its_grant_passes_the_token_on() -> None:
    async def scene() -> None:
        budget = SocketBudget(1)
        await budget.acquire()
        first = asyncio.create_task(budget.acquire())
        second = asyncio.create_task(budget.acquire())
        await asyncio.sleep(0)
        budget.release()
        first.cancel()
        await second
        assert first.cancelled()
        budget.release()
        assert budget.stats().open == budget.waiting == 0

    asyncio.run(scene())


def test_a_late_waiter_is_refused_with_the_setting_named() -> None:
    async def scene() -> None:
        budget = SocketBudget(1)
        await budget.acquire()
        with pytest.raises(FetchError, match=r"1 open, limit 1, .*pool\.sockets") as caught:
            await budget.acquire(asyncio.get_running_loop().time())
        assert caught.value.code == "local"
        assert budget.stats().refused == 1
        assert budget.waiting == 0

    asyncio.run(scene())


def test_a_token_given_back_twice_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="nobody had taken"):
        SocketBudget(1).release()


def test_a_shortage_halves_the_limit_down_to_four() -> None:
    clock = Clock()
    budget = SocketBudget(20, clock=clock)
    limits = []
    for _ in range(4):
        budget.shrink()
        limits.append(budget.stats().limit)
        clock.now += 1.0
    assert limits == [10, 5, 4, 4]
    assert budget.stats().shrunk == 4
    small = SocketBudget(2)
    small.shrink()
    assert small.stats().limit == 2


def test_connects_that_fail_together_are_one_shortage() -> None:
    clock = Clock()
    budget = SocketBudget(64, clock=clock)
    for _ in range(20):
        budget.shrink()
        clock.now += 0.004
    assert (budget.stats().limit, budget.stats().shrunk) == (32, 1)
    clock.now += 0.03
    budget.shrink()
    assert (budget.stats().limit, budget.stats().shrunk) == (16, 2)


def test_after_a_shortage_the_limit_comes_back_a_sixteenth_at_a_time() -> None:
    clock = Clock()
    budget = SocketBudget(64, clock=clock)
    budget.shrink()
    clock.now += 9.0
    budget.shrink()
    assert budget.stats().limit == 16
    clock.now += 9.9
    assert budget.recover() == 0
    clock.now += 0.1
    assert budget.recover() == 4
    clock.now += 25.0
    assert budget.recover() == 8
    clock.now += 5.0
    assert budget.recover() == 4
    clock.now += 1e6
    assert budget.recover() == 32
    assert budget.recover() == 0
    assert (budget.stats().limit, budget.stats().derived) == (64, 64)


def test_time_without_traffic_is_not_paid_out_into_the_next_shortage() -> None:
    clock = Clock()
    budget = SocketBudget(64, clock=clock)
    for _ in range(4):
        budget.shrink()
        clock.now += 1.0
    clock.now += 60.0
    budget.shrink()
    assert budget.stats().limit == 4


@pytest.mark.parametrize("how", ["recover", "acquire", "try_acquire", "release"])
def test_a_limit_that_grows_serves_those_who_waited_first(how: str) -> None:
    async def scene() -> None:
        clock = Clock()
        budget = SocketBudget(16, clock=clock)
        for _ in range(16):
            assert budget.try_acquire()
        budget.shrink()
        clock.now += 1.0
        waiting = [asyncio.create_task(budget.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        for _ in range(9):
            budget.release()
        await asyncio.sleep(0)
        assert sum(task.done() for task in waiting) == 1  # 8 open: the limit
        clock.now += 10.0
        if how == "recover":
            budget.recover()
        elif how == "acquire":
            waiting.append(asyncio.create_task(budget.acquire()))
        elif how == "try_acquire":
            assert not budget.try_acquire()
        else:
            budget.release()
        for _ in range(3):
            await asyncio.sleep(0)
        assert waiting[1].done()
        assert waiting[-1].done() is (how == "release")
        clock.now += 1000.0
        budget.recover()
        await asyncio.gather(*waiting)
        stats = budget.stats()
        assert stats.granted_after_wait == len(waiting)
        assert stats.waited_s >= 10.0
        assert stats.open <= stats.limit
        for _ in range(stats.open):
            budget.release()

    asyncio.run(scene())


def test_a_token_without_waiting_is_for_those_whom_nobody_precedes() -> None:
    async def scene() -> None:
        budget = SocketBudget(2)
        assert budget.try_acquire()
        assert budget.try_acquire()
        assert not budget.try_acquire()
        waiter = asyncio.create_task(budget.acquire())
        await asyncio.sleep(0)
        assert not budget.try_acquire()
        budget.release()
        assert not budget.try_acquire()
        await waiter
        budget.release()
        assert budget.try_acquire()
        assert budget.stats().granted_after_wait == 1

    asyncio.run(scene())


def test_who_waits_may_be_relieved_at_once() -> None:
    async def scene() -> None:
        budget = SocketBudget(1)
        budget.relieve = budget.release
        await budget.acquire()
        await budget.acquire(asyncio.get_running_loop().time() + 60)
        assert (budget.stats().open, budget.stats().peak) == (1, 1)

    asyncio.run(scene())


def test_a_budget_that_cannot_recover_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot recover every 0"):
        SocketBudget(4, recover_s=0)


@given(
    size=st.integers(1, 40),
    story=st.lists(st.tuples(st.sampled_from("asrtcw"), st.integers(0, 9)), max_size=60),
)
def test_whatever_happens_no_token_is_lost_and_nobody_waits_beside_a_free_one(
    size: int, story: list[tuple[str, int]]
) -> None:
    """Acquire, shrink, release, try, cancel, let time pass; a task holds what it was given."""

    async def scene() -> None:
        clock = Clock()
        budget = SocketBudget(size, clock=clock)
        tasks: list[asyncio.Task[None]] = []
        held = 0
        for what, number in story:
            if what == "a":
                tasks.append(asyncio.create_task(budget.acquire()))
            elif what == "s":
                budget.shrink()
            elif what == "r" and held:
                budget.release()
                held -= 1
            elif what == "t":
                held += budget.try_acquire()
            elif what == "c" and tasks:
                tasks[number % len(tasks)].cancel()
            else:
                clock.now += number
                budget.recover()
            if number % 2:
                for _ in range(4):
                    await asyncio.sleep(0)
                held += sum(task.done() and not task.cancelled() for task in tasks)
                tasks = [task for task in tasks if not task.done()]
                stats = budget.stats()
                assert stats.open == held
                assert stats.waiting == len(tasks)
                assert not (stats.waiting and stats.open < stats.limit)
            assert min(4, size) <= budget.stats().limit <= size
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(held + done.count(None)):
            budget.release()
        assert budget.stats().open == budget.waiting == 0

    asyncio.run(scene())


LIMITS = """
import logging, resource, subprocess, sys
from crawler.pool.budget import SocketBudget, raise_descriptor_limit, restore_descriptor_limit
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300))
SocketBudget()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (64, 300)
assert SocketBudget().stats().derived < 64
assert raise_descriptor_limit() == (64, 300)
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, 300)
assert raise_descriptor_limit() == (300, 300)
assert SocketBudget().stats().derived > 150
ask = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
child = subprocess.run(
    [sys.executable, "-c", ask], capture_output=True, check=True,
    preexec_fn=lambda: restore_descriptor_limit(64),
)
assert child.stdout.strip() == b"64", child
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, 300)
assert not restore_descriptor_limit(301)
assert restore_descriptor_limit(64)
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (64, 300)
"""


def test_the_descriptor_limit_is_raised_once_and_can_be_restored() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "crawler.pool INFO raised the limit of open descriptors from 64 to 300\n"
    )


def test_a_limit_that_is_high_enough_stays(caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        raised = raise_descriptor_limit()
        assert raised[0] == before[0]
        assert raised[1] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        caplog.clear()
        assert raise_descriptor_limit() == (raised[1], raised[1])
        assert not caplog.records
    finally:
        assert restore_descriptor_limit(before[0])
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_random_cancellation_loses_no_token() -> None:
    async def scene(seed: int) -> None:
        dice = random.Random(seed)
        budget = SocketBudget(3)

        async def work() -> None:
            await budget.acquire()
            try:
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
                assert budget.stats().open <= 3
            finally:
                budget.release()

        tasks = [asyncio.create_task(work()) for _ in range(40)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            if dice.random() < 0.7:
                dice.choice(tasks).cancel()
        assert budget.stats().open == budget.waiting == 0

    for seed in range(20):
        asyncio.run(scene(seed))
