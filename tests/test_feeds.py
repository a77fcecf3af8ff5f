"""Files that grow with the items of a run: their bytes, their growth, what a kill leaves."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import tempfile
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from storage import StorageError
from storage.export import write_rows
from storage.feed import Written
from tests.feeding import Shelf, killed

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with Shelf(tmp_path) as made:
        yield made


def rendered(form: str, columns: list[str], *rows: tuple[Any, ...]) -> str:
    stream = io.StringIO()
    assert write_rows(columns, rows, stream, form) == len(rows)
    return stream.getvalue()


# -- formats -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\tx", '"\'\tx"'),
        ("\rx", '"\'\rx"'),
        ("＝1", "'＝1"),
        (" =1", '"\' =1"'.strip('"')),
        ("\ufeff=1", "'\ufeff=1"),
        ('=a"b', '"\'=a""b"'),
        ("a\r\nb", '"a\r\nb"'),
        ("a;=1", '"a;=1"'),
        ("a\tb", '"a\tb"'),
        (" a", '" a"'),
        ("a\0b", "a\ufffdb"),
        ("\ud800", "\ufffd"),
        (b"\0\xff", "AP8="),
        (-1, "-1"),
        (0.1 + 0.2, "0.30000000000000004"),
        ("a-1", "a-1"),
        ("", '""'),
        (None, '""'),
    ],
)
def test_a_cell_of_csv_is_no_formula_and_stays_one_cell(value: Any, cell: str) -> None:
    text = rendered("csv", ["x"], (value,))
    assert text == f"x\n{cell}\n"
    told = list(csv.reader(io.StringIO(text, newline="")))
    assert len(told) == 2
    assert len(told[1]) == 1


def test_a_name_of_a_column_is_no_formula_either() -> None:
    assert rendered("csv", ["=a", "b,c"]) == '\'=a,"b,c"\n'


def test_json_holds_what_is_there_and_no_lone_surrogate() -> None:
    row = ("=1\0\ud83d", b"\0\xff", None, 2**63 - 1)
    (told,) = json.loads(rendered("json", ["a", "b", "c", "d"], row))
    assert told == {"a": "=1\0\ufffd", "b": "AP8=", "c": None, "d": 2**63 - 1}
    assert rendered("json", ["a"]) == "[]\n"
    assert rendered("jsonl", ["a"], (1,), (2,)) == '{"a":1}\n{"a":2}\n'


# -- growth --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_a_file_has_what_was_stored_after_each_look(shelf: Shelf, form: str) -> None:
    feed = shelf.feed(f"out.{form}")
    feed.start()
    assert shelf.text(feed.file.name) == rendered(form, [])
    shelf.declare()
    for n in range(3):
        shelf.put("book", {"k": f"={n}", "n": n})
        feed.write()
        assert shelf.text(feed.file.name) == shelf.exported(form, "book")
    assert (feed.rows, feed.tables, feed.finish()) == (3, ["book"], [])


def test_a_csv_is_written_anew_with_each_new_column(shelf: Shelf) -> None:
    feed = shelf.feed("out.csv")
    feed.start()
    shelf.put("items", {"a": 1})
    feed.write()
    shelf.put("items", {"b": 2, "a": "x"})
    feed.write()
    assert shelf.text("out.csv") == "a,b\n1,\nx,2\n"
    assert sorted(path.name for path in shelf.folder.glob("*out*")) == ["out.csv"]


def test_rows_that_were_replaced_are_right_in_the_end(shelf: Shelf) -> None:
    shelf.declare()
    feed = shelf.feed("out.jsonl")
    feed.start()
    shelf.put("book", {"k": "a", "n": 1}, {"k": "b", "n": 1})
    feed.write()
    before = feed.file.stat().st_ino
    shelf.put("book", {"k": "a", "n": 2}, {"k": "c", "n": 3})
    feed.write()
    assert shelf.text("out.jsonl").splitlines()[0] == '{"k":"a","n":1}'
    feed.finish()
    assert shelf.text("out.jsonl") == shelf.exported("jsonl", "book")
    assert feed.file.stat().st_ino != before


def test_a_file_in_which_nothing_changed_is_not_written_anew(shelf: Shelf) -> None:
    shelf.declare()
    feed = shelf.feed("out.json")
    feed.start()
    shelf.put("book", {"k": "a", "n": 1}, {"k": "a", "n": 2})
    feed.write()
    before = feed.file.stat().st_ino
    assert feed.finish() == []
    assert feed.file.stat().st_ino == before
    assert json.loads(shelf.text("out.json")) == [{"k": "a", "n": 2}]


def test_a_csv_takes_the_first_table_that_has_items_and_names_the_others(shelf: Shelf) -> None:
    shelf.declare()
    feed = shelf.feed("out.csv")
    feed.start()
    shelf.put("later", {"a": 1})
    feed.write()
    shelf.put("book", {"k": "a", "n": 1})
    feed.write()
    assert (feed.finish(), feed.tables) == (["book"], ["later"])
    assert shelf.text("out.csv") == shelf.exported("csv", "later")


def test_json_takes_all_tables_and_has_them_in_order_in_the_end(shelf: Shelf) -> None:
    shelf.declare()
    feed = shelf.feed("out.json")
    feed.start()
    shelf.put("later", {"a": 1})
    feed.write()
    shelf.put("book", {"k": "a", "n": 1})
    feed.write()
    assert json.loads(shelf.text("out.json")) == [{"a": 1}, {"k": "a", "n": 1}]
    assert feed.finish() == []
    assert shelf.text("out.json") == shelf.exported("json", "book", "later")


@pytest.mark.parametrize(
    ("name", "text"), [("x.csv", "k,n\n"), ("x.jsonl", ""), ("x.json", "[]\n")]
)
def test_a_table_that_never_gets_an_item(shelf: Shelf, name: str, text: str) -> None:
    shelf.declare()
    feed = shelf.feed(name, table="BOOK")
    feed.start()
    shelf.put("other", {"a": 1})
    assert (feed.finish(), feed.rows, shelf.text(name)) == ([], 0, text)


def test_large_rows_are_read_in_several_batches(shelf: Shelf) -> None:
    feed = shelf.feed("out.jsonl")
    feed.start()
    for n in range(40):
        shelf.put("items", {"n": n, "text": "x" * 100_000})
    feed.write()
    assert shelf.text("out.jsonl") == shelf.exported("jsonl", "items")
    states = msgspec.json.decode(shelf.kept["out.jsonl"], type=Written)
    assert (states.rows, feed.rows) == (40, 40)


# -- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 0)])
def test_a_file_that_is_gone_or_emptied_is_written_anew(shelf: Shelf, harm: Any) -> None:
    shelf.declare()
    feed = shelf.feed("out.jsonl")
    feed.start()
    shelf.put("book", {"k": "a", "n": 1})
    feed.write()
    harm(feed.file)
    shelf.put("book", {"k": "b", "n": 2})
    feed.write()
    assert shelf.text("out.jsonl") == shelf.exported("jsonl", "book")
    harm(feed.file)
    again = shelf.feed("out.jsonl")
    again.start()
    assert shelf.text("out.jsonl") == shelf.exported("jsonl", "book")


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
@pytest.mark.parametrize("text", ["shorter", "k,n\nmine,1\n", "something as long or longer " * 99])
@pytest.mark.parametrize("rows", [0, 3])
def test_a_file_that_somebody_put_in_the_way_is_never_written_over(
    shelf: Shelf, form: str, text: str, rows: int
) -> None:
    shelf.declare()
    feed = shelf.feed(f"out.{form}", table="book")
    feed.start()
    for n in range(rows):
        shelf.put("book", {"k": f"k{n}" * 9, "n": n})
        feed.write()
    feed.file.write_text(text)
    shelf.put("book", {"k": "later", "n": 9})
    for work in (feed.write, feed.finish, shelf.feed(f"out.{form}", table="book").start):
        with pytest.raises(StorageError, match="written by something else"):
            work()
    assert feed.file.read_text() == text


def test_what_somebody_adds_to_a_file_is_never_written_over(shelf: Shelf) -> None:
    feed = shelf.feed("out.jsonl")
    feed.start()
    shelf.put("items", {"a": 1})
    feed.write()
    feed.check()
    with feed.file.open("a") as stream:
        stream.write("mine\n")
    shelf.put("items", {"a": 2})
    for _ in range(2):
        with pytest.raises(StorageError, match="written by something else"):
            feed.finish()
    assert shelf.text("out.jsonl") == '{"a":1}\nmine\n'


def test_rows_that_left_the_database_leave_the_file_in_the_end(shelf: Shelf) -> None:
    feed = shelf.feed("out.jsonl")
    feed.start()
    shelf.put("items", {"a": 1}, {"a": 2})
    feed.write()
    with closing(sqlite3.connect(shelf.path)) as connection, connection:
        connection.execute("DELETE FROM items WHERE a = 1")
    feed.finish()
    assert shelf.text("out.jsonl") == shelf.exported("jsonl", "items") == '{"a":2}\n'


def test_a_database_that_cannot_be_read_is_told_as_such(shelf: Shelf) -> None:
    feed = shelf.feed("out.jsonl")
    shelf.put("items", {"a": 1})
    with closing(sqlite3.connect(shelf.path)) as connection, connection:
        connection.execute("DROP VIEW items_latest")
        connection.execute("DROP TABLE items")
    with pytest.raises(StorageError, match="items cannot be read: no such table"):
        feed.write()


def test_what_was_there_is_kept_when_items_are_added(shelf: Shelf) -> None:
    (shelf.folder / "out.jsonl").write_text('{"old":1}')
    shelf.declare()
    feed = shelf.feed("out.jsonl", base=9)
    feed.start()
    shelf.put("book", {"k": "a", "n": 1})
    feed.write()
    shelf.put("book", {"k": "a", "n": 2})
    feed.finish()
    assert shelf.text("out.jsonl") == '{"old":1}\n' + shelf.exported("jsonl", "book")


def test_csv_is_added_to_csv_of_the_same_columns_only(shelf: Shelf) -> None:
    (shelf.folder / "out.csv").write_text("\ufeffk,n\r\nold,0\r\n")
    (shelf.folder / "no.csv").write_text("k,m\nold,0\n")
    shelf.declare()
    shelf.put("book", {"k": "a", "n": 1})
    feed = shelf.feed("out.csv", base=os.stat(shelf.folder / "out.csv").st_size)
    feed.start()
    feed.write()
    assert shelf.text("out.csv") == "\ufeffk,n\r\nold,0\r\na,1\n"
    with pytest.raises(StorageError, match="it begins with `k,m`, and the items have `k,n`"):
        shelf.feed("no.csv", base=10).start()
    assert shelf.text("no.csv") == "k,m\nold,0\n"


def test_a_link_stays_one_and_the_mode_stays(shelf: Shelf) -> None:
    real = shelf.folder / "real.jsonl"
    real.touch(0o640)
    (shelf.folder / "out.jsonl").symlink_to(real)
    feed = shelf.feed("out.jsonl")
    feed.start()
    shelf.put("items", {"a": 1})
    feed.finish()
    assert (shelf.folder / "out.jsonl").is_symlink()
    assert real.read_text() == '{"a":1}\n'
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_file_that_could_not_be_written_is_whole_once_it_can(shelf: Shelf) -> None:
    (shelf.folder / "disk").mkdir()
    feed = shelf.feed("disk/out.json")
    feed.start()
    shelf.put("items", {"a": 1})
    feed.write()
    (shelf.folder / "disk").rename(shelf.folder / "away")
    shelf.put("items", {"a": 2})
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            feed.write()
    (shelf.folder / "away").rename(shelf.folder / "disk")
    feed.write()
    assert shelf.text("disk/out.json") == shelf.exported("json", "items")


# -- kills ---------------------------------------------------------------------------------

OUTPUTS = {
    "all.jsonl": (None, ("book", "items")),
    "all.json": (None, ("book", "items")),
    "book.csv": ("book", ("book",)),
    "items.jsonl": ("items", ("items",)),
    "first.csv": (None, ()),
}
PUTS: list[tuple[str, dict[str, Any]]] = [
    ("items", {"p": "a"}),
    ("book", {"k": "a", "n": 1}),
    ("book", {"k": "b", "n": 2}),
    ("items", {"q": "x" * 70}),
    ("book", {"k": "a", "n": 3}),
]


@pytest.mark.parametrize("name", [*OUTPUTS, "items.csv", "added.jsonl"])
def test_a_kill_at_any_step_and_one_while_going_on_leave_the_file_right_in_the_end(
    tmp_path: Path, name: str
) -> None:
    base = "{}" if name.startswith("added") else ""
    table = "items" if name == "items.csv" else OUTPUTS.get(name, (None,))[0]
    path = tmp_path / name
    path.write_text(base)

    with Shelf(tmp_path) as shelf:
        shelf.declare()

        def live() -> None:
            feed = shelf.feed(name, table=table, base=len(base))
            feed.start()
            feed.write()
            feed.finish()

        steps = 0
        for put in PUTS:
            before, kept = path.read_bytes(), dict(shelf.kept)
            shelf.put(*put)
            for step in count():
                path.write_bytes(before)
                shelf.kept = dict(kept)
                with killed(step) as made:
                    live()
                shelf.put("items", {"p": "stored by the crawl before it died"})
                is_over = len(made) <= step
                for again in () if is_over else (step, 2):
                    with killed(again):
                        live()
                live()
                text = shelf.exported(name.rpartition(".")[2], *shelf.feeds[-1].tables)
                assert shelf.text(name) == (f"{base}\n" if base else "") + text
                if is_over:
                    break
                steps += step
            assert steps > 20


texts = st.sampled_from(["", "a", "=1", "ä\n,", "x" * 70])
books = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9)), min_size=1, max_size=4)
mappings = st.dictionaries(st.sampled_from(["p", "q", "r", "s"]), texts, min_size=1, max_size=3)


class FeedMachine(RuleBasedStateMachine):
    """Random commits, looks and deaths; in the end every file is what an export gives."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.shelf = Shelf(Path(self.folder.name))
        self.shelf.declare()
        self.feeds = {name: self.begun(name) for name in OUTPUTS}

    def begun(self, name: str) -> Any:
        feed = self.shelf.feed(name, table=OUTPUTS[name][0])
        feed.start()
        return feed

    @rule(rows=books)
    def put_books(self, rows: list[tuple[str, int]]) -> None:
        self.shelf.put("book", *({"k": k, "n": n} for k, n in rows))

    @rule(row=mappings)
    def put_mapping(self, row: dict[str, str]) -> None:
        self.shelf.put("items", row)

    @rule(name=st.sampled_from(list(OUTPUTS)))
    def look(self, name: str) -> None:
        self.feeds[name].write()
        if name.endswith(".json") and (self.shelf.folder / name).exists():
            assert len(json.loads(self.shelf.text(name))) == self.feeds[name].rows

    @rule(name=st.sampled_from(list(OUTPUTS)), step=st.integers(0, 9), ends=st.booleans())
    def die(self, name: str, step: int, ends: bool) -> None:
        """End at some step, then begin again from what was kept."""
        with killed(step):
            self.feeds[name].finish() if ends else self.feeds[name].write()
        self.feeds[name] = self.begun(name)

    @rule(name=st.sampled_from(list(OUTPUTS)))
    def lose(self, name: str) -> None:
        (self.shelf.folder / name).unlink(missing_ok=True)

    def teardown(self) -> None:
        try:
            for name, feed in self.feeds.items():
                feed.finish()
                self.compare(name, tuple(OUTPUTS[name][1]) or tuple(feed.tables))
        finally:
            self.shelf.__exit__()
            self.folder.cleanup()

    def compare(self, name: str, tables: tuple[str, ...]) -> None:
        known = self.shelf.runner.run(self.shelf.store.tables())
        there = [table for table in tables if table in known]
        expected = self.shelf.exported(name.rpartition(".")[2], *there) if there else ""
        assert self.shelf.text(name) == expected


TestFeedMachine = FeedMachine.TestCase
TestFeedMachine.settings = settings(max_examples=15, stateful_step_count=20)
