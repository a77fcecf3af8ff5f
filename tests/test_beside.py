"""The control and live files beside a database, whatever somebody does to them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from storage import Beside, StorageError, append_control, read_live
from storage.beside import CONTROL_BYTES, LINE_BYTES, POLL_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def db(tmp_path: Path) -> str:
    return str(tmp_path / "x.db")


@pytest.fixture
def beside(db: str) -> Iterator[Beside]:
    opened = Beside.open(db)
    yield opened
    opened.close()


def polled(beside: Beside) -> list[tuple[int, bytes | None]]:
    return [tuple(line) for line in beside.poll()]  # type: ignore[misc]


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_lines_come_once_in_their_order_with_their_place(db: str, beside: Beside) -> None:
    assert polled(beside) == []
    assert [append_control(db, line) for line in (b"one", b"two")] == [1, 2]
    assert polled(beside) == [(1, b"one"), (2, b"two")]
    assert polled(beside) == []
    assert append_control(db, b"three") == 3
    assert polled(beside) == [(3, b"three")]


def test_only_its_owner_may_read_or_write_them(db: str) -> None:
    old = os.umask(0)
    try:
        beside = Beside.open(db)
        beside.show(b"{}")
    finally:
        os.umask(old)
    assert (mode(f"{db}-control"), mode(f"{db}-live")) == (0o600, 0o600)
    beside.close()


def test_what_an_earlier_process_left_reaches_no_crawl(db: str) -> None:
    dead = Beside.open(db)
    append_control(db, b"stop")
    dead.show(b"old")
    beside = Beside.open(db)
    assert read_live(db) is None
    assert append_control(db, b"pause") == 1
    assert polled(beside) == [(1, b"pause")]
    beside.close()


def test_without_a_crawl_there_is_nothing_to_append_to(db: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no crawl is using"):
        append_control(db, b"pause")
    Beside.open(db).close()
    with pytest.raises(StorageError, match="no crawl is using"):
        append_control(db, b"pause")
    assert list(tmp_path.iterdir()) == []


def test_a_torn_line_is_a_line_of_its_own_and_the_next_one_is_whole(
    db: str, beside: Beside
) -> None:
    with open(f"{db}-control", "ab") as file:
        file.write(b'{"action": "pa')
    assert polled(beside) == []
    assert append_control(db, b"two") == 2
    assert polled(beside) == [(1, b'{"action": "pa'), (2, b"two")]


@pytest.mark.parametrize("size", [LINE_BYTES + 1, 3 * POLL_BYTES])
def test_a_line_that_is_too_long_is_told_as_such_and_costs_no_other(
    size: int, db: str, beside: Beside
) -> None:
    with open(f"{db}-control", "ab") as file:
        file.write(b"x" * size + b"\n")
    assert append_control(db, b"two") == 2
    seen = [line for _ in range(20) for line in polled(beside)]
    assert seen == [(1, None), (2, b"two")]


def test_a_line_of_the_longest_kind_is_read_whole(db: str, beside: Beside) -> None:
    append_control(db, b"y" * LINE_BYTES)
    assert polled(beside) == [(1, b"y" * LINE_BYTES)]
    for wrong in (b"y" * (LINE_BYTES + 1), b"a\nb"):
        with pytest.raises(ValueError, match="one line"):
            append_control(db, wrong)


def test_a_full_control_file_takes_no_more(db: str, beside: Beside) -> None:
    os.truncate(f"{db}-control", CONTROL_BYTES)
    with pytest.raises(StorageError, match="16 MiB") as refused:
        append_control(db, b"pause")
    assert refused.value.hint is not None


def test_an_emptied_control_file_begins_anew(db: str, beside: Beside) -> None:
    append_control(db, b"a long first one")
    assert len(polled(beside)) == 1
    os.truncate(f"{db}-control", 0)
    assert append_control(db, b"two") == 1
    assert polled(beside) == [(1, b"two")]


def test_a_control_file_that_was_replaced_is_not_obeyed(
    db: str, beside: Beside, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"stop\n")
    os.replace(foreign, f"{db}-control")
    assert polled(beside) == []
    os.unlink(f"{db}-control")
    assert polled(beside) == []


def test_no_link_is_followed(db: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    for name in ("control", "live", "live-new"):
        os.symlink(victim, f"{db}-{name}")
    with pytest.raises(StorageError):
        append_control(db, b"pause")
    with pytest.raises(StorageError):
        read_live(db)
    beside = Beside.open(db)
    beside.show(b"seen")
    append_control(db, b"pause")
    assert victim.read_bytes() == b"kept"
    assert not os.path.islink(f"{db}-control")
    assert not os.path.islink(f"{db}-live")
    beside.close()
    assert victim.read_bytes() == b"kept"


def test_what_is_no_plain_file_is_refused_and_nobody_waits_for_it(db: str) -> None:
    os.mkfifo(f"{db}-control")
    os.mkfifo(f"{db}-live")
    with pytest.raises(StorageError):
        append_control(db, b"pause")
    with pytest.raises(StorageError):
        read_live(db)
    os.unlink(f"{db}-control")
    os.mkdir(f"{db}-control")
    with pytest.raises(StorageError, match="stands in the way"):
        Beside.open(db)


def test_the_live_file_is_replaced_whole_and_gone_at_the_end(
    db: str, beside: Beside, tmp_path: Path
) -> None:
    assert read_live(db) is None
    beside.show(b"a" * 100_000)
    with open(f"{db}-live", "rb") as early:
        beside.show(b"b")
        assert early.read() == b"a" * 100_000
    assert read_live(db) == b"b"
    beside.close()
    beside.close()
    assert list(tmp_path.iterdir()) == []


def test_a_live_file_that_cannot_be_written_leaves_the_old_one(db: str, beside: Beside) -> None:
    beside.show(b"old")
    os.mkdir(f"{db}-live-new")
    with pytest.raises(OSError, match=r"-live-new"):
        beside.show(b"new")
    assert read_live(db) == b"old"
    os.rmdir(f"{db}-live-new")


APPENDS = """
import sys
from storage import append_control
for n in range(int(sys.argv[3])):
    print(append_control(sys.argv[1], f"{sys.argv[2]}.{n} ".encode() * 50))
"""


def test_many_processes_append_whole_lines_and_each_knows_its_place(
    db: str, beside: Beside
) -> None:
    def run(name: str) -> list[int]:
        asked = [sys.executable, "-c", APPENDS, db, name, "40"]
        return [int(n) for n in subprocess.check_output(asked, text=True).split()]

    with ThreadPoolExecutor(3) as pool:
        numbers = list(pool.map(run, "abc"))
    lines = polled(beside)
    assert (
        sorted(n for given in numbers for n in given)
        == [number for number, _ in lines]
        == list(range(1, 121))
    )
    for name, given in zip("abc", numbers, strict=True):
        mine = [data for number, data in lines if number in given]
        assert mine == [f"{name}.{n} ".encode() * 50 for n in range(40)]
