"""Rows, not spiders: the durable frontier, items and statistics of crawls."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    from pathlib import Path

__all__ = [
    "LEASE_S",
    "Ack",
    "Claim",
    "Column",
    "Commit",
    "DomainRow",
    "ErrorRow",
    "FetchRow",
    "ItemRow",
    "NewRequest",
    "QueuedRequest",
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
    "is_reserved",
    "open_store",
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
