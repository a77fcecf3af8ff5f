"""One process per database: a locked file `<db>-lock` with the process id inside.

Owns: taking and giving back the lock. Invariants: the kernel ends the lock with its
process, however that dies; the file is removed only by who holds the lock, so two
processes never hold locks on two files of the same name.
"""

from __future__ import annotations

import fcntl
import os

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
                raise StorageError(
                    f"{path} cannot be created: {error.strerror}",
                    hint="choose a file in a folder that can be written, with --db",
                ) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
                os.close(descriptor)
                raise StorageError(
                    f"{database} is being used by another crawl (process {holder})",
                    hint=f"wait for it, stop it with `kill -INT {holder}`, or choose another --db",
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


def _is_same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
