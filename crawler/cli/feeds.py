"""`-o` of a run: files and stdout that get the items while the crawl goes on.

Owns: which outputs may be gone on with, the tasks that write them, what is said of them,
stdout and its reader. Does not own: what stands in a file (storage's `feed`), which
outputs are asked for (`files`), the crawl.

Invariants: rows come from the database, so an output never holds up a crawl and none is
lost by one that cannot be written; an output that may not be written is refused before the
run begins; the loop never waits for a disk or for a reader; nothing else goes to stdout.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.cli.files import STDOUT, check_folder, refuse_existing
from crawler.cli.stdout import Lines, Stdout
from crawler.cli.voice import say
from crawler.errors import UsageError
from crawler.wording import plural, printable
from storage import StorageError
from storage.feed import Feed, Written, check_head, fit
from storage.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from crawler.cli.files import Sink
    from storage import RunRow, Store

__all__ = ["Outputs"]

POLL_S = 0.5
EXIT_UNWRITTEN = 5
READER_GONE = "reader"
"""What a run is ended by when the reader of its items has gone."""


class Outputs:
    """What `-o` asks for, from the command line to the last row."""

    def __init__(
        self, sinks: Sequence[Sink] = (), *, overwrite: bool = False, append: bool = False
    ) -> None:
        self.sinks = sinks
        self.has_reader_gone = False
        self.has_failed = False
        self._overwrite = overwrite
        self._append = append
        self._held: dict[Sink, Written] = {}
        self._open: list[_Output] = []
        self._stdout = next((Stdout() for sink in sinks if sink.file is None), None)

    def __repr__(self) -> str:
        return f"<Outputs {len(self.sinks)} asked for, {len(self._open)} open>"

    def check(self, database: Path, runs: int) -> None:
        """What can be told before the database is opened; raises UsageError."""
        if (self._overwrite or self._append) and not any(sink.file for sink in self.sinks):
            flag = "--overwrite" if self._overwrite else "--append"
            raise UsageError(f"{flag} says how a file is written", hint="-o FILE")
        if self._overwrite and self._append:
            raise UsageError("--overwrite and --append exclude each other", hint="give one")
        for sink in self.sinks:
            if sink.file is None:
                continue
            check_folder(sink.file, database)
            if self._append and sink.form == "json":
                raise UsageError(
                    f"{sink.file} cannot be added to: it is one JSON array",
                    hint="--append works for .jsonl and .csv",
                )
            if runs > 1 and sink.form == "csv" and sink.table is None:
                raise UsageError(
                    f"-o {sink.spelled} takes one table, and {runs} spiders are named",
                    hint=f"say which: -o TABLE={sink.spelled}; or write .jsonl",
                )
            if not (self._overwrite or self._append or database.exists()):
                refuse_existing(sink.file, sink.form)

    async def look(self, store: Store, goes_on: Sequence[RunRow | None]) -> None:
        """Find what the runs that go on have written; raises UsageError for a file that is
        in the way."""
        runs = [row for row in goes_on if row is not None]
        notes = await store.notes(runs[0].id) if len(runs) == len(goes_on) else {}
        for sink in self.sinks:
            if sink.file is None:
                continue
            held = _decoded(notes.get(_key(sink)), tuple(run.name for run in runs))
            if held is not None and fit(sink.file, held) != "foreign":
                self._held[sink] = held
            elif not (self._overwrite or self._append):
                refuse_existing(sink.file, sink.form)
            elif self._append and sink.form == "csv" and sink.table and sink.file.exists():
                await asyncio.to_thread(_check_columns, store.path, sink)

    async def begin(
        self,
        store: Store,
        runs: Mapping[int, str],
        *,
        stop: Callable[[str], None],
    ) -> None:
        """Make the files and begin to write; `stop` ends the crawl.

        What cannot be made is told: the crawl goes on without it.
        """
        if not self.sinks or store.path is None:
            return
        loop = asyncio.get_running_loop()
        for sink in self.sinks:
            tail = Tail(store.path, runs)
            if sink.file is None:
                assert self._stdout is not None
                writing: Feed | Lines = Lines(self._stdout, tail, sink.table)
            else:
                base = 0
                if self._append and sink not in self._held and sink.file.exists():
                    base = sink.file.stat().st_size
                writing = Feed(
                    tail,
                    sink.file,
                    sink.form,
                    keep=_keeper(loop, store, next(iter(runs)), _key(sink)),
                    table=sink.table,
                    written=self._held.get(sink),
                    base=base,
                )
            self._open.append(_Output(self, sink, writing, stop, store.path))
        await asyncio.gather(*(output.start() for output in self._open))

    async def finish(self, *, quiet: bool = False) -> None:
        """Write the rest, say what was written; the runs have ended."""
        for output in self._open:
            await output.finish(quiet)

    async def aclose(self) -> None:
        """Stop writing. Idempotent."""
        for output in self._open:
            await output.aclose()
        self._open.clear()

    def exit_code(self, code: int) -> int:
        """The command's, from the crawl's: 0 when the reader has gone, 5 for a crawl that
        went well and whose items could not be written."""
        if self.has_reader_gone:
            return 0
        return code or (EXIT_UNWRITTEN if self.has_failed else 0)

    @property
    def is_on_terminal(self) -> bool:
        """Items are written where a view of the crawl would be drawn."""
        return self._stdout is not None and self._stdout.is_terminal

    def data_only(self) -> contextlib.AbstractContextManager[Any]:
        """While this is entered, what a spider prints goes to stderr if stdout has items."""
        if self._stdout is None:
            return contextlib.nullcontext()
        return contextlib.redirect_stdout(sys.stderr)


class _Output:
    """One output while a crawl goes on: its thread, its task, its words."""

    def __init__(
        self,
        all_of: Outputs,
        sink: Sink,
        writing: Feed | Lines,
        stop: Callable[[str], None],
        database: str,
    ) -> None:
        self._all = all_of
        self._sink = sink
        self._writing = writing
        self._stop = stop
        self._database = database
        self._place = "stdout" if sink.file is None else str(sink.file)
        self._thread = ThreadPoolExecutor(1, f"output {self._place}")
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_told = False

    def __repr__(self) -> str:
        return f"<_Output {self._place}>"

    async def start(self) -> None:
        """Make it, and follow the crawl from then on."""
        await self._try(self._writing.start)
        self._task = asyncio.create_task(self._follow())

    async def finish(self, quiet: bool) -> None:
        """Write the rest and say what is in it."""
        await self._end()
        if self._is_told and self._sink.file is None:
            self._all.has_failed = True  # a pipe cannot be cut back to its last whole line
            return
        left = await self._try(self._writing.finish, is_last=True)
        if left is None or self._all.has_reader_gone:
            return
        run = self._run
        if self._sink.file is None:
            if left:
                self._tell(
                    f"stdout: {plural(len(left), 'table')} changed behind what was written"
                    f" ({', '.join(left)}); as they are now: {self._command('-', self._sink.table)}"
                )
            return
        self._tell_content(run, quiet)
        for table in left:
            command = self._command(f"{table}.csv", table)
            self._tell(f"{self._place} has no room for the items of {table}: {command}")

    async def aclose(self) -> None:
        """End the thread; a write that waits for its reader is waited for."""
        await self._end()
        await self._on_thread(self._writing.close)
        self._thread.shutdown()

    @property
    def _run(self) -> str:
        return ", ".join(self._writing.runs)

    async def _end(self) -> None:
        self._ending.set()
        if self._task is not None:
            await self._task

    async def _follow(self) -> None:
        while not self._ending.is_set() and not self._all.has_reader_gone:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), POLL_S)
                return
            if not (self._is_told and self._sink.file is None):
                await self._try(self._writing.write)

    async def _try(self, work: Callable[[], Any], *, is_last: bool = False) -> Any:
        """Do one thing in the thread; what fails is told, and None returned."""
        try:
            result = await self._on_thread(work)
        except BrokenPipeError:
            if self._sink.file is None:
                self._all.has_reader_gone = True
                self._stop(READER_GONE)
                return None
            raise
        except (OSError, StorageError) as error:
            self._tell_failure(error, is_last)
            return None
        if is_last and self._is_told and self._sink.file is not None:
            self._tell(f"{self._place} could be written in the end: it is complete")
            self._is_told = False
        return result if result is not None else ()

    async def _on_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _tell_failure(self, error: OSError | StorageError, is_last: bool) -> None:
        if is_last:
            self._all.has_failed = True
        if self._is_told and not is_last:
            return
        self._is_told = True
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError):
            reason = f"{self._place} cannot be written: {reason}"
        table = self._sink.table
        file = "FILE" if self._sink.file is None else f"FILE{self._sink.file.suffix}"
        later = "" if is_last or self._sink.file is None else "it is tried again at the end, or: "
        hint = f"the items are in the database: {later}{self._command(file, table)}"
        say(
            f"{printable(f'error: {reason}')}\n{printable(f'  hint: {hint}')}",
            event="output",
            level="error",
            output=self._place,
        )

    def _tell(self, text: str) -> None:
        say(printable(text), event="output", output=self._place)

    def _tell_content(self, run: str, quiet: bool) -> None:
        assert isinstance(self._writing, Feed)
        tables = ", ".join(self._writing.tables)
        if not self._writing.rows:
            what = f" in {self._sink.table}" if self._sink.table else ""
            self._tell(f"{self._place} is empty: {run} has no items{what}")
        elif not quiet:
            rows = plural(self._writing.rows, "row")
            self._tell(f"{rows} of {tables} in {self._place}")

    def _command(self, file: str, table: str | None = None) -> str:
        words = ["crawler", "export", self._writing.runs[0]]
        if self._database != f"{self._writing.runs[0].rpartition('-')[0]}.db":
            words += ["--db", self._database]
        if table is not None:
            words += ["--table", table]
        return shlex.join([*words, "-o", file])


def _key(sink: Sink) -> str:
    """Under which name the store keeps what an output holds."""
    table = f"{sink.table}=" if sink.table else ""
    return f"output {table}{os.path.normpath(sink.file or STDOUT)}"


def _decoded(note: str | None, runs: tuple[str, ...]) -> Written | None:
    if note is None:
        return None
    try:
        written = msgspec.json.decode(note, type=Written)
    except msgspec.MsgspecError:
        return None
    return written if written.runs == runs else None


def _keeper(
    loop: asyncio.AbstractEventLoop, store: Store, run: int, key: str
) -> Callable[[Written], None]:
    """What keeps a file's state, called from its thread."""

    def keep(written: Written) -> None:
        value = msgspec.json.encode(written).decode()
        asyncio.run_coroutine_threadsafe(store.note(run, key, value), loop).result()

    return keep


def _check_columns(database: str | None, sink: Sink) -> None:
    """Raise UsageError when the file that is added to has other columns than its table."""
    tail = Tail(database or "", {})
    try:
        with tail.snapshot() as layouts:
            for layout in layouts:
                if sink.file and layout.name.lower() == (sink.table or "").lower():
                    check_head(sink.file, layout.columns)
    except StorageError as error:
        raise UsageError(str(error), hint=error.hint) from error
    finally:
        tail.close()
