"""Files that grow with the items of runs, exact after a crash.

Owns: a file, what is put into it, and the state by which it is gone on with. Does not own:
which rows are new (`tail`), formats (`export`), where the state is kept (the caller's
`keep`), when the file is written.

Invariants: a file holds all rows up to its state's
offset before that state is kept, so who cuts it there and goes on lacks no row and has none
twice; before a file is replaced the state says that it is written anew; once finished it
is, byte for byte, what `export` gives; bytes before `base` are never touched.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from storage import export
from storage.store import StorageError
from storage.tail import Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from storage.tail import Batch, Layout, Tail

__all__ = ["Feed", "Written", "check_head", "fit"]

COSTLY_S = 0.1
CHECKED_BYTES = 1024
"""Bytes before the offset by which a file is known again."""


class Written(Struct, frozen=True, kw_only=True):
    """What a file holds: enough to go on with it."""

    runs: tuple[str, ...]
    offset: int = 0
    """Where the last row ends, before what stands behind it."""
    rows: int = 0
    base: int = 0
    """Bytes of the file that were there before; kept as they are."""
    marks: dict[str, Mark] = {}
    is_mixed: bool = False
    """Rows of several tables do not stand table by table."""
    last: str = ""
    """Hash of the bytes before the offset."""
    is_anew: bool = False
    """It is being written from its first row: what stands behind `base` does not count."""


class Feed:
    """One file of items. Its methods block; one thread calls them, one after another."""

    def __init__(
        self,
        tail: Tail,
        file: Path,
        form: str,
        *,
        keep: Callable[[Written], None],
        table: str | None = None,
        written: Written | None = None,
        base: int = 0,
    ) -> None:
        """`table` None: all tables, for CSV the first that has items. `written`: what the
        file holds already, where that fits (`fit`); None: nothing but its first `base` bytes.
        """
        self.file = file
        self.form = form
        self.table = table
        self._path = Path(os.path.realpath(file))
        self._part = self._path.with_name(f".{self._path.name}.part")
        self._tail = tail
        self._keep = keep
        self._state = written or Written(runs=tail.runs, offset=base, base=base, is_anew=True)
        self._size: int | None = None
        """What the file must measure; None: at least up to the offset."""
        self._seen = -1
        """Version of the database of which the file holds everything."""
        self._is_sound = True
        self._costly_until = 0.0
        """Until then (monotonic) it is not written anew for new columns."""

    def __repr__(self) -> str:
        return f"<Feed {self.file} {self._state.rows} rows, {self._state.offset} bytes>"

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs whose items it holds."""
        return self._tail.runs

    @property
    def rows(self) -> int:
        """Rows in the file, without what was there before."""
        return self._state.rows

    @property
    def tables(self) -> list[str]:
        """Tables whose rows the file holds."""
        return [name for name, mark in self._state.marks.items() if mark.columns]

    def start(self) -> None:
        """Make the file, or cut what was not kept off it. Raises OSError, StorageError."""
        with suppress(FileNotFoundError):
            self._part.unlink()
        kind = fit(self._path, self._state)
        if kind == "foreign":
            raise self._foreign()
        if kind == "anew":
            self._anew()
        else:
            self._append(b"", self._state)
        self._is_sound = True

    def write(self) -> None:
        """Add what was stored meanwhile. Raises OSError, StorageError; may be called again."""
        version = self._tail.version()
        if version == self._seen and self._is_sound:
            return
        try:
            if not self._is_sound:
                self.start()
            is_all = self._write()
        except OSError:
            self._is_sound, self._size = False, None
            raise
        if is_all:
            self._seen = version

    def finish(self) -> list[str]:
        """Make it what an export gives; the tables with items that have no place in it.

        Raises OSError, StorageError.
        """
        self._seen, self._costly_until = -1, 0.0
        self.write()
        with self._tail.snapshot() as layouts:
            is_right = not self._state.is_mixed and all(map(self._is_unchanged, layouts))
            others = [] if self.table or self.form != "csv" else self._tail.filled(layouts)
        if not is_right:
            self._anew()
        return [layout.name for layout in others if layout.name not in self._state.marks]

    def close(self) -> None:
        """Close the connection; the file is whole after each call as it is."""
        self._tail.close()

    def _foreign(self) -> StorageError:
        return StorageError(f"{self.file} was written by something else meanwhile")

    def _is_unchanged(self, layout: Layout) -> bool:
        """No row of this table that the file holds has changed, nor have its columns."""
        mark = self._state.marks.get(layout.name, Mark())
        return not mark.columns or (
            mark.columns == layout.columns and mark.replaced == layout.replaced
        )

    def _write(self) -> bool:
        """Whether everything that was stored is in the file now."""
        size = _size_of(self._path)
        if self._size is not None and size > self._size:
            raise self._foreign()
        if size < self._state.offset or not self._path.exists():
            self._anew()
            return True
        batch = self._batch(self._state)
        while not batch.has_grown:
            if batch.data:
                self._append(batch.data, _after(self._state, batch))
            else:
                self._state = replace(self._state, marks=batch.marks)
            if batch.is_all:
                return True
            batch = self._batch(self._state)
        return self._grow()

    def _grow(self) -> bool:
        """Write it anew for new columns, for a tenth of the time at most."""
        started = time.monotonic()
        if started < self._costly_until:
            return False
        self._anew()
        took = time.monotonic() - started
        if took > COSTLY_S:
            self._costly_until = started + 10 * took
        return True

    def _batch(self, state: Written) -> Batch:
        with self._tail.snapshot() as layouts:
            chosen = self._chosen(layouts, state)
            return self._tail.read(chosen, state.marks, self.form, is_first=not state.rows)

    def _chosen(self, layouts: list[Layout], state: Written) -> list[Layout]:
        """The tables that belong into the file."""
        if self.table is not None:
            wanted = self.table.lower()
            return [layout for layout in layouts if layout.name.lower() == wanted]
        if self.form != "csv":
            return layouts
        marked = state.marks or self._state.marks
        if marked:
            return [layout for layout in layouts if layout.name in marked]
        return self._tail.filled(layouts)[:1]

    def _append(self, data: bytes, state: Written) -> None:
        """Put rows behind the last one, and what closes the document behind them."""
        start = state.offset - len(data)
        closing = export.tail(self.form, is_empty=not state.rows)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            state = replace(state, last=_hash(_before(descriptor, start) + data))
            try:
                _put(descriptor, data + closing, start)
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):  # the document as it was needs no more room
                    before = export.tail(self.form, is_empty=not self._state.rows)
                    _put(descriptor, before, start)
                raise
        finally:
            os.close(descriptor)
        self._size = state.offset + len(closing)
        self._set(state)

    def _set(self, state: Written) -> None:
        self._keep(state)
        self._state = state

    def _anew(self) -> None:
        """Write it from its first row: beside it, and then in its place; behind what was
        there before, in its place at once."""
        base = min(self._state.base, _size_of(self._path))
        self._set(replace(self._state, base=base, is_anew=True))
        path = self._path if base else self._part
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            state = self._fill(descriptor, base)
            os.fsync(descriptor)
            if not base:
                _take_place(descriptor, self._part, self._path)
        except BaseException:
            if not base:
                with suppress(OSError):
                    self._part.unlink()
            raise
        finally:
            os.close(descriptor)
        self._size = _size_of(self._path)
        self._set(state)

    def _fill(self, descriptor: int, base: int) -> Written:
        """Everything that is stored, behind `base` bytes."""
        while True:
            state, data = self._headed(base, descriptor)
            _put(descriptor, data, base)
            while not (batch := self._batch(state)).has_grown:
                _put(descriptor, batch.data, state.offset)
                state = _after(state, batch)
                if batch.is_all:
                    closing = export.tail(self.form, is_empty=not state.rows)
                    _put(descriptor, closing, state.offset)
                    return replace(state, last=_hash(_before(descriptor, state.offset)))

    def _headed(self, base: int, descriptor: int) -> tuple[Written, bytes]:
        """An empty document's state, and its head. Raises StorageError when what is there
        has other columns."""
        state = Written(runs=self._tail.runs, base=base)
        columns: tuple[str, ...] = ()
        if self.form == "csv":
            with self._tail.snapshot() as layouts:
                for layout in self._chosen(layouts, state):
                    columns = layout.columns
                    marks = {layout.name: Mark(0, columns, layout.replaced)}
                    state = replace(state, marks=marks)
        data = export.head(columns, self.form)
        if base:
            if data:
                _check_head(descriptor, data, self.file)
            data = b"" if os.pread(descriptor, 1, base - 1) == b"\n" else b"\n"
        return replace(state, offset=base + len(data)), data


def fit(file: Path, written: Written) -> str:
    """What a file is to a state: "same" when it can be gone on with, "anew" when it is to be
    written from its first row (gone, too short, or that was under way), else "foreign"."""
    if written.is_anew or not file.exists() or _size_of(file) < written.offset:
        return "anew"
    with file.open("rb") as stream:
        last = _hash(_before(stream.fileno(), written.offset))
    return "same" if last == written.last else "foreign"


def check_head(file: Path, columns: Iterable[str]) -> None:
    """Raise StorageError when a CSV file that is there has other columns; empty: it has none."""
    with file.open("rb") as stream:
        if _size_of(file):
            _check_head(stream.fileno(), export.head(tuple(columns), "csv"), file)


def _check_head(descriptor: int, wanted: bytes, file: Path) -> None:
    have = os.pread(descriptor, len(wanted) + 5, 0).removeprefix(b"\xef\xbb\xbf")
    if have.replace(b"\r\n", b"\n")[: len(wanted)] != wanted:
        first = have.partition(b"\n")[0].decode(errors="replace")
        raise StorageError(
            f"{file} has other columns: it begins with `{first}`, and the items have"
            f" `{wanted.decode().strip()}`",
            hint="-o another file",
        )


def _after(state: Written, batch: Batch) -> Written:
    return replace(
        state,
        offset=state.offset + len(batch.data),
        rows=state.rows + batch.rows,
        marks=batch.marks,
        is_mixed=state.is_mixed or batch.is_mixed,
    )


def _take_place(descriptor: int, part: Path, path: Path) -> None:
    """Put a file in the place of another, with its mode; durable when this returns."""
    with suppress(FileNotFoundError):
        os.fchmod(descriptor, path.stat().st_mode & 0o7777)
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _put(descriptor: int, data: bytes, at: int) -> None:
    """Write at a place and end the file behind it."""
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, at)
        left, at = left[written:], at + written
    os.ftruncate(descriptor, at)


def _before(descriptor: int, offset: int) -> bytes:
    start = max(0, offset - CHECKED_BYTES)
    return os.pread(descriptor, offset - start, start)


def _hash(data: bytes) -> str:
    return blake2b(data[-CHECKED_BYTES:], digest_size=8).hexdigest()


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
