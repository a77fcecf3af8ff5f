"""Stores of both kinds, opened for a scene, and what is put into them."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from storage import Ack, Commit, NewRequest, RunSpec, Store, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Scene = Callable[[Store], Awaitable[None]]
    Play = Callable[[Scene], None]

NOW = 1_000_000.0


@asynccontextmanager
async def opened(target: Path | None) -> AsyncIterator[Store]:
    store = await open_store(target)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture(params=["sqlite", "memory"])
def on_each_store(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Runs an async scene against a fresh store of each kind."""

    def run(scene: Scene) -> None:
        async def main() -> None:
            target = tmp_path / "crawl.db" if request.param == "sqlite" else None
            async with opened(target) as store:
                await scene(store)

        asyncio.run(main())

    return run


def link(url: str, domain: str = "a.test", **more: Any) -> NewRequest:
    fingerprint = hashlib.blake2b(url.encode(), digest_size=16).digest()
    return NewRequest(fingerprint=fingerprint, domain=domain, url=url, **more)


async def commit(store: Store, batch: list[Commit]) -> list[Ack]:
    """Commit without waiting for company."""
    task = asyncio.ensure_future(store.commit(batch))
    await asyncio.sleep(0)
    store.hurry()
    return await task


async def started(store: Store, spider: str = "books") -> int:
    return (await store.begin(RunSpec(spider=spider, started_at=NOW))).id


async def seeded(store: Store, run: int, *links: NewRequest) -> list[int | None]:
    (ack,) = await commit(store, [Commit(run=run, links=links, at=NOW, seeded=True)])
    assert ack.applied
    return list(ack.inserted)


async def claimed(store: Store, run: int, worker: str = "w") -> dict[str, int]:
    return {claim.domain: claim.epoch for claim in await store.claim(worker, [run], 100, NOW)}


async def urls(store: Store, run: int, domain: str = "a.test") -> list[str]:
    return [row.url for row in await store.window(run, domain, 100)]
