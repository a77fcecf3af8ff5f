"""What every store promises about items and their tables, SQLite and memory alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from storage import Column, Commit, ItemRow, State, StorageError, Table
from tests.store_rows import NOW, claimed, commit, link, on_each_store, seeded, started

if TYPE_CHECKING:
    from storage import Store
    from tests.store_rows import Play

# pytest knows a fixture by its name in the module.
play = on_each_store


def test_the_later_item_of_a_key_wins_whole(play: Play) -> None:
    async def scene(store: Store) -> None:
        columns = (Column(name="url"), Column(name="price", type="REAL"), Column(name="note"))
        await store.declare(Table(name="book", columns=columns, key="url"))
        run = await started(store)
        numbers = await seeded(store, run, *(link(f"http://a.test/{n}") for n in range(3)))
        epoch = (await claimed(store, run))["a.test"]

        def page(n: int, *values: Any, columns: tuple[str, ...]) -> Commit:
            item = ItemRow(table="book", columns=columns, values=values, ordinal=0)
            return Commit(
                run=run,
                domain="a.test",
                epoch=epoch,
                request=numbers[n],
                at=NOW,
                items=(item,),
            )

        await commit(
            store,
            [
                page(0, "/x", 1.0, "old", columns=("url", "price", "note")),
                page(1, "/y", 2.0, columns=("url", "price")),
                page(2, 3.0, "/x", columns=("price", "url")),
            ],
        )
        assert await store.items(run, "book") == [
            {"url": "/x", "price": 3.0, "note": None},
            {"url": "/y", "price": 2.0, "note": None},
        ]
        assert (await store.count(run))["items"] == 2

    play(scene)


def test_an_item_without_its_key_fails_its_page_alone(play: Play) -> None:
    async def scene(store: Store) -> None:
        await store.declare(Table(name="book", columns=(Column(name="url"),), key="url"))
        run = await started(store)
        numbers = await seeded(store, run, link("http://a.test/1"), link("http://a.test/2"))
        epoch = (await claimed(store, run))["a.test"]
        pages = [
            Commit(
                run=run,
                domain="a.test",
                epoch=epoch,
                request=number,
                at=NOW,
                items=(ItemRow(table="book", columns=("url",), values=(url,), ordinal=0),),
            )
            for number, url in zip(numbers, (None, "/y"), strict=True)
        ]
        bad, good = await commit(store, pages)
        assert (bad.applied, good.applied, good.error) == (False, True, None)
        assert bad.error is not None
        assert "url" in bad.error
        counted = await store.count(run)
        assert (counted["failed"], counted["done"], counted["errors"]) == (1, 1, 1)
        assert await store.items(run, "book") == [{"url": "/y"}]

    play(scene)


def test_a_table_without_a_key_keeps_one_row_per_request_and_ordinal(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        numbers = await seeded(store, run, link("http://a.test/1"), link("http://a.test/2"))
        epoch = (await claimed(store, run))["a.test"]
        same: dict[str, Any] = {"run": run, "domain": "a.test", "epoch": epoch, "at": NOW}

        def items(*names: str) -> tuple[ItemRow, ...]:
            return tuple(
                ItemRow(table="items", columns=("name",), values=(name,), ordinal=n)
                for n, name in enumerate(names)
            )

        put_back = Commit(request=numbers[0], state=State.QUEUED, items=items("a", "b"), **same)
        done = Commit(request=numbers[0], items=items("A"), **same)
        other = Commit(request=numbers[1], items=items("c"), **same)
        await commit(store, [put_back, done, other])
        rows = await store.items(run, "items")
        assert [row["name"] for row in rows] == ["A", "b", "c"]
        assert (await store.count(run))["items"] == 3
        assert await store.tables() == ["items"]

    play(scene)


def test_mappings_grow_their_table_and_keep_their_values(play: Play) -> None:
    async def scene(store: Store) -> None:
        run = await started(store)
        values: list[dict[str, Any]] = [
            {"a": 12345, "b": "x"},
            {"a": "01234", "C": 2**63 - 1},
            {"c": float("inf"), "d": b"\x00\xff", "b": "nul\0inside"},
            {"e": None, "a": -(2**63)},
        ]
        numbers = await seeded(store, run, *(link(f"http://a.test/{n}") for n in range(4)))
        epoch = (await claimed(store, run))["a.test"]
        for number, value in zip(numbers, values, strict=True):
            item = ItemRow(table="items", columns=(*value,), values=(*value.values(),), ordinal=0)
            page = Commit(
                run=run, domain="a.test", epoch=epoch, request=number, at=NOW, items=(item,)
            )
            assert (await commit(store, [page]))[0].error is None
        rows = await store.items(run, "items")
        assert list(rows[0]) == ["a", "b", "C", "d", "e"]
        assert [row["a"] for row in rows] == [12345, "01234", None, -(2**63)]
        assert [row["C"] for row in rows] == [None, 2**63 - 1, float("inf"), None]
        assert (rows[2]["b"], rows[2]["d"]) == ("nul\0inside", b"\x00\xff")

    play(scene)


def test_a_declared_table_grows_but_does_not_change(play: Play) -> None:
    async def scene(store: Store) -> None:
        a, b = Column(name="a"), Column(name="b", type="INTEGER")
        await store.declare(Table(name="thing", columns=(a,), key="a"))
        await store.declare(Table(name="thing", columns=(a, b), key="a"))
        run = await started(store)
        assert await store.items(run, "thing") == []
        for changed in (
            Table(name="thing", columns=(Column(name="a", type="REAL"),), key="a"),
            Table(name="thing", columns=(a, b), key="b"),
            Table(name="thing", columns=(a, b)),
            Table(name="requests"),
            Table(name="v_mine"),
            Table(name="other", columns=(a,), key="b"),
        ):
            with pytest.raises(StorageError):
                await store.declare(changed)
        with pytest.raises(StorageError):
            await store.items(run, "unheard_of")

    play(scene)
