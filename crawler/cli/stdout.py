"""Stdout while a crawl goes on: items as JSON lines, or what spiders print.

Owns: the descriptor, whether somebody still reads it, how far a run has been written. Does
not own: when it is written (`feeds`).

Invariants: a line is written whole or the crawl ends; a run is written from its first item
each time, since a pipe cannot be gone on with; a row that is replaced after it was written
is not written again, and counted.
"""

from __future__ import annotations

import os
import select
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.tail import Mark, Tail

__all__ = ["Lines", "Printed", "Stdout"]


class Stdout:
    """The stdout that a command was given, for data."""

    def __init__(self) -> None:
        self._stream: Any = sys.stdout
        self._stream.flush()
        try:
            self._descriptor = self._stream.fileno()
        except OSError:  # a stream of this process only
            self._descriptor = -1

    def __repr__(self) -> str:
        return f"<Stdout {self._descriptor}>"

    @property
    def is_terminal(self) -> bool:
        """A person looks at it."""
        return self._descriptor >= 0 and os.isatty(self._descriptor)

    def check(self) -> None:
        """Raise BrokenPipeError when nobody reads it any more."""
        if self._descriptor < 0:
            return
        looked = select.poll()
        looked.register(self._descriptor, 0)
        if any(events & select.POLLERR for _, events in looked.poll(0)):
            raise BrokenPipeError

    def write(self, data: bytes) -> None:
        """Write all of it, waiting for the reader. Raises OSError."""
        if self._descriptor < 0:
            self._stream.write(data.decode())
            return
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])


class Printed:
    """A stdout for what spiders print: when its reader has gone, it takes everything still."""

    def __init__(self, stream: Any, gone: Callable[[], None]) -> None:
        self._stream = stream
        self._gone = gone

    def __repr__(self) -> str:
        return f"<Printed {self._stream!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write it, or drop it."""
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        """Write what waits, or drop it."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Let the descriptor lead nowhere: what waits in the stream goes there too."""
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self._stream.fileno())
        os.close(devnull)
        self._gone()


class Lines:
    """JSON lines of a run on stdout, always from its first item."""

    def __init__(self, stdout: Stdout, tail: Tail, table: str | None) -> None:
        self._stdout = stdout
        self._tail = tail
        self._table = table and table.lower()
        self._marks: dict[str, Mark] = {}
        self._seen = -1
        self.runs = tail.runs

    def __repr__(self) -> str:
        return f"<Lines of {', '.join(self.runs)}>"

    def start(self) -> None:
        """Nothing is to be made."""

    def write(self) -> None:
        """Write what was stored meanwhile. Raises OSError, StorageError."""
        self._stdout.check()
        version = self._tail.version()
        is_all = version == self._seen
        while not is_all:
            with self._tail.snapshot() as layouts:
                wanted = [each for each in layouts if self._table in (None, each.name.lower())]
                batch = self._tail.read(wanted, self._marks, "jsonl", is_first=False)
            self._stdout.write(batch.data)
            self._marks, is_all = batch.marks, batch.is_all
        self._seen = version

    def finish(self) -> list[str]:
        """Write the rest; the tables whose written rows have been replaced since."""
        self._seen = -1
        self.write()
        with self._tail.snapshot() as layouts:
            return [
                layout.name
                for layout in layouts
                if (mark := self._marks.get(layout.name)) and mark.columns
                if mark.replaced != layout.replaced
            ]

    def close(self) -> None:
        """Close the connection."""
        self._tail.close()
