"""A database that gets items, and files that follow it, without a crawl."""

from __future__ import annotations

import asyncio
import io
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pytest

from storage import Column, Commit, ItemRow, RunSpec, Table, open_store
from storage.export import write_parts
from storage.feed import Feed, Written
from storage.reading import Reader
from storage.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BOOK = Table(name="book", columns=(Column(name="k"), Column(name="n", type="INTEGER")), key="k")


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed(step: int) -> Iterator[list[str]]:
    """Let the process end at a step: half a write, before or behind anything that lasts.

    Gives the names of the steps that were made. Nothing is tidied up by the dead.
    """
    made: list[str] = []

    def ending(name: str, real: Callable[..., Any], *, is_torn: bool = False) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            if len(made) > step:
                raise Killed
            made.append(name)
            if len(made) <= step:
                return real(*arguments, **more)
            if is_torn:
                descriptor, data, at = arguments
                real(descriptor, data[: len(data) // 2], at)
            raise Killed

        return call

    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        patch.setattr(os, "pwrite", ending("pwrite", os.pwrite, is_torn=True))
        for name in ("ftruncate", "fsync", "replace", "unlink"):
            patch.setattr(os, name, ending(name, getattr(os, name)))
        patch.setattr(Shelf, "keep", ending("keep", Shelf.keep))
        yield made


class Shelf:
    """A database with one run, of which items are stored at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "shelf.db"
        self.runner = asyncio.Runner()
        self.store = self.runner.run(open_store(self.path))
        self.run = self.runner.run(self.store.begin(RunSpec(spider="shelf", started_at=1.0)))
        self.kept: dict[str, bytes] = {}
        self.feeds: list[Feed] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for feed in self.feeds:
            feed.close()
        self.runner.run(self.store.aclose())
        self.runner.close()

    def declare(self, table: Table = BOOK) -> None:
        self.runner.run(self.store.declare(table))

    def put(self, table: str, *items: dict[str, Any]) -> None:
        """Commit items in one page."""

        async def commit() -> None:
            rows = [
                ItemRow(table=table, columns=tuple(i), values=tuple(i.values()), ordinal=n)
                for n, i in enumerate(items)
            ]
            page = Commit(run=self.run.id, items=tuple(rows), at=1.0)
            task = asyncio.ensure_future(self.store.commit([page]))
            await asyncio.sleep(0)
            self.store.hurry()
            (ack,) = await task
            assert ack.error is None

        self.runner.run(commit())

    def feed(self, name: str, *, table: str | None = None, base: int = 0) -> Feed:
        """A file that goes on where its kept state says."""
        form = name.rpartition(".")[2]
        state = self.kept.get(name)
        feed = Feed(
            Tail(self.path, {self.run.id: self.run.name}),
            self.folder / name,
            form,
            keep=lambda written: self.keep(name, written),
            table=table,
            written=None if state is None else msgspec.json.decode(state, type=Written),
            base=base,
        )
        self.feeds.append(feed)
        return feed

    def keep(self, name: str, written: Written) -> None:
        """Keep the state of a file, as a crawl does in its database."""
        self.kept[name] = msgspec.json.encode(written)

    def exported(self, form: str, *tables: str) -> str:
        """What an export of these tables gives."""
        stream = io.StringIO()
        with Reader(self.path) as reader:
            parts = [reader.items(table, run=self.run.name) for table in tables]
            write_parts(parts, stream, form)
        return stream.getvalue()

    def text(self, name: str) -> str:
        return (self.folder / name).read_bytes().decode()
