"""One process per database: a locked file `<db>-lock` with the process id inside.

Owns: taking and giving back the lock. Invariants: the kernel ends the lock with its
process, however that dies; the file is removed only by who holds the lock, so two
processes never hold locks on two files of the same name.
"""

from __future__ import annotations

import fcntl
import os
import shlex

from storage.store import StorageError

__all__ = ["FileLock", "is_held"]


class FileLock:
    """A lock held from `open` to `close`."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def __repr__(self) -> str:
        return f"<FileLock {self._path} {'held' if self._descriptor >= 0 else 'released'}>"

    @classmethod
    def open(cls, database: str) -> FileLock:
        """Lock a database. Raises StorageError naming the process that has it."""
        path = f"{database}-lock"
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise _without_room(database, error) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
                os.close(descriptor)
                stop = f"`crawler set stop --db {shlex.quote(database)}` or `kill -INT {holder}`"
                raise StorageError(
                    f"{database} is being used by another crawl (process {holder})",
                    hint=f"wait for it, stop it with {stop}, or choose another --db",
                ) from error
            if _is_same_file(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                return cls(path, descriptor)
            os.close(descriptor)  # its holder removed it between our open and our lock

    def close(self) -> None:
        """Remove the file and end the lock. Idempotent."""
        if self._descriptor >= 0:
            os.unlink(self._path)
            os.close(self._descriptor)
            self._descriptor = -1


def is_held(database: str) -> bool:
    """Whether a living process has the database locked. Changes nothing."""
    try:
        descriptor = os.open(f"{database}-lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _without_room(database: str, error: OSError) -> StorageError:
    """Why a database cannot be had, in words about the file that was named."""
    folder = os.path.dirname(database) or "."
    if not os.path.isdir(folder):
        hint = f"mkdir -p {shlex.quote(folder)}"
        return StorageError(f"{database} has no folder: {folder}", hint=hint)
    return StorageError(
        f"{database} cannot be used: no file can be made in {folder}: {error.strerror}",
        hint="choose a file in a folder that can be written, with --db",
    )


def _is_same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
