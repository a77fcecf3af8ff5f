"""Rows, not spiders: the durable frontier, items and statistics of crawls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.beside import Beside, Line, append_control, read_live
from storage.records import (
    Ack,
    Claim,
    Column,
    Commit,
    DomainRow,
    ErrorRow,
    FetchRow,
    ItemRow,
    NewRequest,
    QueuedRequest,
    Queues,
    RunRow,
    RunSpec,
    RunState,
    Scalar,
    State,
    StoreStats,
    Table,
    Woken,
)
from storage.schema import is_reserved
from storage.store import LEASE_S, StorageError, Store

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "LEASE_S",
    "Ack",
    "Beside",
    "Claim",
    "Column",
    "Commit",
    "DomainRow",
    "ErrorRow",
    "FetchRow",
    "ItemRow",
    "Line",
    "NewRequest",
    "QueuedRequest",
    "Queues",
    "RunRow",
    "RunSpec",
    "RunState",
    "Scalar",
    "State",
    "StorageError",
    "Store",
    "StoreStats",
    "Table",
    "Woken",
    "append_control",
    "is_reserved",
    "open_store",
    "queue_again",
    "read_live",
]


async def open_store(target: str | Path | None) -> Store:
    """The store at `target`: a file of SQLite; None or `memory:`, one that is not kept.

    Raises StorageError when the file is in use, not ours, or cannot be opened.
    """
    if target is None or target == "memory:":
        from storage.memory import MemoryStore

        return MemoryStore()
    from storage.sqlite import SqliteStore

    return await SqliteStore.open(target)


def queue_again(path: str | Path, run: str, requests: Iterable[int]) -> int:
    """Queue settled requests (ids) of a run again; how many were.

    Those that are queued already stay as they are. With any queued the run is interrupted,
    so that the same `crawler run` goes on with it. Raises StorageError when another process
    has the database.
    """
    from storage.requeue import queue_again as queue

    return queue(path, run, requests)
