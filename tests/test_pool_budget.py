"""The socket budget: order, ownership, cancellation."""

from __future__ import annotations

import asyncio
import random

import pytest

from crawler.errors import FetchError
from crawler.pool.budget import SocketBudget, derive_limit, open_descriptors


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
        with pytest.raises(FetchError, match=r"pool\.sockets") as caught:
            await budget.acquire(asyncio.get_running_loop().time())
        assert caught.value.code == "local"
        assert budget.stats().refused == 1
        assert budget.waiting == 0

    asyncio.run(scene())


def test_a_token_given_back_twice_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="nobody had taken"):
        SocketBudget(1).release()


def test_a_shortage_halves_the_limit_down_to_four() -> None:
    budget = SocketBudget(20)
    limits = []
    for _ in range(4):
        budget.shrink()
        limits.append(budget.stats().limit)
    assert limits == [10, 5, 4, 4]
    small = SocketBudget(2)
    small.shrink()
    assert small.stats().limit == 2


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
