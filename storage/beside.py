"""The two small files beside a database that a crawl has open: control and live.

`<db>-control` takes one line a command, appended by any process that may; the crawl reads
them in their order. `<db>-live` says what the crawl looks like now, as a whole, replaced
by rename. Owns: bytes, places and modes. Does not own: what a line or the live text means.

Invariants: the control file is made anew by the crawl that opens the database, so a line
of an earlier process never reaches it; both have mode 0600, no link is followed, and what
is no plain file is refused; a line is read once, whole, and at most 64 KiB long; both are
gone when the crawl has closed the database, and may be left by one that was killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from storage.store import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LINE_BYTES", "Beside", "Line", "append_control", "read_live"]

LINE_BYTES = 64 << 10
CONTROL_BYTES = 16 << 20
"""A control file that has grown to this takes no more."""
LIVE_BYTES = 4 << 20
POLL_BYTES = 256 << 10
"""What one `poll` reads at most; the rest comes with the next."""
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Line(NamedTuple):
    """A line of the control file."""

    number: int
    """Its place in the file, from 1."""
    data: bytes | None
    """Without its end; None: it was longer than 64 KiB."""


class Beside:
    """The crawl's side of both files; made by `open`, under the database's lock."""

    def __init__(self, database: str, identity: tuple[int, int, int]) -> None:
        self._control = f"{database}-control"
        self._live = f"{database}-live"
        self._identity = identity
        self._read = 0
        self._lines = 0
        self._is_in_long_line = False

    def __repr__(self) -> str:
        return f"<Beside {self._control} {self._lines} lines read>"

    @classmethod
    def open(cls, database: str) -> Beside:
        """Drop what an earlier process left, make an empty control file.

        Raises StorageError when what stands in its place cannot be removed.
        """
        database = os.path.abspath(database)
        path = f"{database}-control"
        try:
            for old in (path, f"{database}-live", f"{database}-live-new"):
                with suppress(FileNotFoundError):
                    os.unlink(old)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN, 0o600)
        except OSError as error:
            raise StorageError(
                f"{error.filename or path} stands in the way: {error.strerror}",
                hint="remove it, or choose another database with --db",
            ) from error
        made = os.fstat(descriptor)
        os.close(descriptor)
        return cls(database, (made.st_dev, made.st_ino, made.st_uid))

    def poll(self) -> list[Line]:
        """Lines that were appended since the last call; one call to the system where there
        are none. A file that was removed or replaced has none."""
        try:
            now = os.stat(self._control, follow_symlinks=False)
        except OSError:
            return []
        if (now.st_dev, now.st_ino, now.st_uid) != self._identity or now.st_size == self._read:
            return []
        if now.st_size < self._read:  # somebody emptied it
            self._read = self._lines = 0
            self._is_in_long_line = False
        try:
            with _opened(self._control, os.O_RDONLY) as descriptor:
                return self._split(os.pread(descriptor, POLL_BYTES, self._read))
        except OSError:
            return []

    def show(self, data: bytes) -> None:
        """Replace the live file. Raises OSError, and then the old one stays."""
        new = f"{self._live}-new"
        with suppress(FileNotFoundError):
            os.unlink(new)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN, 0o600)
        try:
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), new)
        finally:
            os.close(descriptor)
        os.replace(new, self._live)

    def close(self) -> None:
        """Remove both files. Idempotent."""
        for path in (self._control, self._live, f"{self._live}-new"):
            with suppress(OSError):
                os.unlink(path)

    def _split(self, data: bytes) -> list[Line]:
        lines = []
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._read += len(line) + 1
            self._lines += 1
            is_long = self._is_in_long_line or len(line) > LINE_BYTES
            lines.append(Line(self._lines, None if is_long else line))
            self._is_in_long_line = False
        if len(rest) > LINE_BYTES:
            self._read += len(rest)
            self._is_in_long_line = True
        return lines


def append_control(database: str, line: bytes) -> int:
    """Append a line (without its end) to the control file; its place there, from 1.

    Raises StorageError when no crawl keeps such a file, or it takes no more.
    """
    if b"\n" in line or len(line) > LINE_BYTES:
        raise ValueError("one line of at most 64 KiB is what a control file takes")
    path = f"{database}-control"
    try:
        while True:
            with _opened(path, os.O_RDWR | os.O_APPEND) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                    return _appended(descriptor, path, line)
    except FileNotFoundError as error:
        raise StorageError(f"no crawl is using {database}", hint="crawler run SPIDER") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def read_live(database: str) -> bytes | None:
    """What the live file holds; None: there is none. The crawl that wrote it may be dead.

    Raises StorageError for what is no plain file, and for one that cannot be read.
    """
    path = f"{database}-live"
    try:
        with _opened(path, os.O_RDONLY) as descriptor:
            return os.read(descriptor, LIVE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def _appended(descriptor: int, path: str, line: bytes) -> int:
    """One write under the lock; a line that somebody tore is ended first."""
    size = os.fstat(descriptor).st_size
    if size + len(line) + 2 > CONTROL_BYTES:
        full = f"{path} has taken all the commands it may ({CONTROL_BYTES >> 20} MiB)"
        raise StorageError(full, hint="stop the crawl and run it again: it goes on")
    before = os.pread(descriptor, size, 0)
    is_torn = bool(before) and not before.endswith(b"\n")
    os.write(descriptor, (b"\n" if is_torn else b"") + line + b"\n")
    return before.count(b"\n") + is_torn + 1


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    """A descriptor of a plain file. Raises OSError for anything else."""
    descriptor = os.open(path, flags | _PLAIN)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        yield descriptor
    finally:
        os.close(descriptor)
