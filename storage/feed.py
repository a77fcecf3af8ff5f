"""Files that grow with the items of runs, exact after a crash.

Owns: a file, what is put into it, and the state by which it is gone on with. Does not own:
which rows are new (`tail`), formats (`export`), where the state is kept (the caller's
`keep`), when the file is written.

Invariants: a file holds all rows up to its state's offset before that state is kept, so who
goes on there lacks no row and has none twice; nothing is written over that is not what the
state says, or the begin of what comes next; once finished it is, byte for byte, what
`export` gives; bytes before `base` are never touched.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from storage import export
from storage.store import StorageError
from storage.tail import Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.tail import Batch, Layout, Tail

__all__ = ["Feed", "Written", "replacing"]

COSTLY_S = 0.1
CHECKED_BYTES = 1024
"""Bytes before the offset by which a file is known again."""
CLOSING_BYTES = 3
"""The longest of what stands behind the last row."""


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
    former: tuple[int, str] | None = None
    """Offset and hash of what this takes the place of: it may still be there."""


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
        file holds already; None: its first `base` bytes stay, and the others may go.
        """
        self.file = file
        self.form = form
        self.table = table
        self._path = Path(os.path.realpath(file))
        self._part = self._path.with_name(f".{self._path.name}.part")
        self._tail = tail
        self._keep = keep
        self._is_new = written is None
        self._state = written or Written(runs=tail.runs, offset=base, base=base)
        self._seen = -1
        """Version of the database of which the file holds everything."""
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

    def check(self) -> None:
        """Raise StorageError when the file is not the one that was written; it may be gone."""
        self._is_there(self._batch(self._state).data)

    def start(self) -> None:
        """Make the file, without a row, or go on with it. Raises OSError, StorageError."""
        with suppress(FileNotFoundError):
            self._part.unlink()
        if self._is_new:
            self._anew(is_filled=False)
        else:
            self.write()

    def write(self) -> None:
        """Add what was stored meanwhile. Raises OSError, StorageError; may be called again."""
        version = self._tail.version()
        if version == self._seen:
            return
        if self._is_new:
            self.start()
        if self._write():
            self._seen = version

    def finish(self) -> list[str]:
        """Make it what an export gives; the tables with items that have no place in it.

        Raises OSError, StorageError.
        """
        self._seen, self._costly_until = -1, 0.0
        self.write()
        with self._tail.snapshot() as layouts:
            chosen = self._chosen(layouts, self._state)
            is_right = (
                not self._state.is_mixed
                and all(map(self._is_unchanged, chosen))
                and self._tail.count(chosen) == self._state.rows
            )
            others = [] if self.table or self.form != "csv" else self._tail.filled(layouts)
        if not is_right:
            self._anew()
        return [layout.name for layout in others if layout.name not in self._state.marks]

    def close(self) -> None:
        """Close the connection; the file is whole after each call as it is."""
        self._tail.close()

    def _is_unchanged(self, layout: Layout) -> bool:
        """No row of this table that the file holds has changed, nor have its columns."""
        mark = self._state.marks.get(layout.name, Mark())
        return not mark.columns or (
            mark.columns == layout.columns and mark.replaced == layout.replaced
        )

    def _is_there(self, coming: bytes) -> bool:
        """Whether the file is as it was left, or with the begin of what comes next; False: it
        is gone, or what was to be replaced. Raises StorageError: it is something else."""
        state = self._state
        with suppress(FileNotFoundError), _opened(self._path, os.O_RDONLY) as descriptor:
            if not os.fstat(descriptor).st_size:
                return not state.offset
            # The former first: it may end as the new one does, and differ before that.
            if state.former is not None and _holds(descriptor, *state.former, b""):
                return False
            if not _holds(descriptor, state.offset, state.last, coming):
                raise StorageError(f"{self.file} was written by something else meanwhile")
            self._state = replace(state, former=None)
            return True
        return False

    def _write(self) -> bool:
        """Whether everything that was stored is in the file now."""
        while True:
            batch = self._batch(self._state)
            if not self._is_there(batch.data):
                self._anew()
                return True
            if batch.has_grown:
                return self._grow()
            if batch.data:
                self._append(batch.data, _after(self._state, batch))
            else:
                self._state = replace(self._state, marks=batch.marks)
            if batch.is_all:
                return True

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
        start = self._state.offset
        with _opened(self._path, os.O_RDWR) as descriptor:
            last = _hash(_before(descriptor, start) + data)
            try:
                _put(descriptor, data + self._closing(state), start)
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):  # the document as it was needs no more room
                    _put(descriptor, self._closing(self._state), start)
                raise
        self._set(replace(state, last=last, former=None))

    def _closing(self, state: Written) -> bytes:
        return export.tail(self.form, is_empty=not state.rows)

    def _set(self, state: Written) -> None:
        self._keep(state)
        self._state, self._is_new = state, False

    def _anew(self, *, is_filled: bool = True) -> None:
        """Write it from its first row, if `is_filled`; else only what stands before that."""
        state = self._state
        former = None if self._is_new else state.former or (state.offset, state.last)
        if self._state.base and self._path.exists() and self._path.stat().st_size:
            self._clear(former)
            if is_filled:
                self._write()
            return
        self._state = replace(self._state, base=0)
        try:
            with replacing(self._path, self._part) as descriptor:
                state = self._fill(descriptor, is_filled)
                os.fsync(descriptor)
                self._keep(replace(state, former=former))
        finally:
            with suppress(OSError):
                self._part.unlink()
        self._state, self._is_new = state, False

    def _clear(self, former: tuple[int, str] | None) -> None:
        """Leave only what was there before. Raises StorageError when that has other columns."""
        state, head = self._headed()
        base = self._state.base
        with _opened(self._path, os.O_RDWR) as descriptor:
            if head:
                _check_head(descriptor, head, self.file)
            if os.pread(descriptor, 1, base - 1) != b"\n":
                base += os.pwrite(descriptor, b"\n", base)
            last = _hash(_before(descriptor, base))
            self._set(replace(state, offset=base, base=base, last=last, former=former))
            os.ftruncate(descriptor, base)
            os.fsync(descriptor)
        self._state = replace(self._state, former=None)

    def _fill(self, descriptor: int, is_filled: bool) -> Written:
        """A document into an empty file: everything that is stored, or no row."""
        while True:
            state, head = self._headed()
            _put(descriptor, head, 0)
            batch = None
            while is_filled and not (batch and batch.is_all):
                batch = self._batch(state)
                if batch.has_grown:
                    break
                _put(descriptor, batch.data, state.offset)
                state = _after(state, batch)
            if batch is None or batch.is_all:
                _put(descriptor, self._closing(state), state.offset)
                return replace(state, last=_hash(_before(descriptor, state.offset)))

    def _headed(self) -> tuple[Written, bytes]:
        """The state of a document without a row, and its head."""
        state = Written(runs=self._tail.runs)
        columns: tuple[str, ...] = ()
        if self.form == "csv":
            with self._tail.snapshot() as layouts:
                for layout in self._chosen(layouts, state):
                    columns = layout.columns
                    marks = {layout.name: Mark(0, columns, layout.replaced)}
                    state = replace(state, marks=marks)
        head = export.head(columns, self.form)
        return replace(state, offset=len(head)), head


@contextmanager
def replacing(path: Path, part: Path) -> Iterator[int]:
    """A new file, open for writing, that takes the place of another, with its mode, once the
    body has ended; `part` is what it is called until then. Durable when this returns."""
    with _opened(part, os.O_RDWR | os.O_CREAT | os.O_EXCL) as descriptor:
        with suppress(FileNotFoundError):
            os.fchmod(descriptor, path.stat().st_mode & 0o7777)
        yield descriptor
        part.replace(path)
    with _opened(path.parent, os.O_RDONLY | os.O_DIRECTORY) as folder:
        os.fsync(folder)


def _check_head(descriptor: int, wanted: bytes, file: Path) -> None:
    have = os.pread(descriptor, len(wanted) + 5, 0).removeprefix(b"\xef\xbb\xbf")
    if have.replace(b"\r\n", b"\n")[: len(wanted)] != wanted:
        first = have.partition(b"\n")[0].decode(errors="replace")
        raise StorageError(
            f"{file} has other columns: it begins with `{first}`, and the items have"
            f" `{wanted.decode().strip()}`",
            hint="-o another file",
        )


def _holds(descriptor: int, offset: int, last: str, coming: bytes) -> bool:
    """Whether a file is known again before an offset, and has nothing behind it but the begin
    of what comes next, or what closes the document."""
    most = len(coming) + CLOSING_BYTES
    rest = os.pread(descriptor, most + 1, offset)
    is_known = _hash(_before(descriptor, offset)) == last
    return is_known and len(rest) <= most and coming.startswith(rest.rstrip(b"]\n"))


def _after(state: Written, batch: Batch) -> Written:
    return replace(
        state,
        offset=state.offset + len(batch.data),
        rows=state.rows + batch.rows,
        marks=batch.marks,
        is_mixed=state.is_mixed or batch.is_mixed,
    )


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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
