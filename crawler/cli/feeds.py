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
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.cli.files import STDOUT, check_folder, parse_sinks, refuse_existing
from crawler.cli.stdout import Lines, Printed, Stdout
from crawler.cli.voice import say, tell_error
from crawler.commands import command, place_of
from crawler.errors import UsageError, nearest
from crawler.wording import plural, printable
from storage import StorageError
from storage.feed import Feed, Written
from storage.reading import Reader
from storage.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
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
        if store.path is None:
            return
        runs = {row.id: row.name for row in goes_on if row is not None}
        is_same = bool(runs) and len(runs) == len(goes_on)
        notes = await store.notes(next(iter(runs))) if is_same else {}
        for sink in self.sinks:
            if sink.file is None:
                continue
            held = _decoded(notes.get(_key(sink)), tuple(runs.values()))
            if held is not None:
                is_held = await asyncio.to_thread(_is_held, store.path, runs, sink, held)
                if is_held:
                    self._held[sink] = held
                    continue
            if not (self._overwrite or self._append):
                refuse_existing(sink.file, sink.form, of=", ".join(held.runs) if held else None)
        self._tell_left_out(store.path, runs, notes)

    def _tell_left_out(
        self, database: str, runs: Mapping[int, str], notes: Mapping[str, str]
    ) -> None:
        """Files that an earlier session wrote, and nobody asks for now."""
        asked = {_key(sink) for sink in self.sinks}
        for key in sorted(notes.keys() - asked):
            kind, _, spelled = key.partition(" ")
            sink = parse_sinks([spelled])[0] if kind == "output" else None
            if sink is None or sink.file is None or not sink.file.exists():
                continue
            run = next(iter(runs.values()))
            table = ("--table", sink.table) if sink.table else ()
            place = place_of(run, run.rpartition("-")[0], database)
            again = command("export", *place, *table, "-o", str(sink.file), "-O")
            text = f"not continued: {spelled} (give -o {spelled} again, or {again})"
            say(printable(text), event="output", level="warning", output=spelled)

    async def begin(
        self, store: Store, runs: Mapping[int, str], *, stop: Callable[[str], None]
    ) -> None:
        """Make the files and begin to write; `stop` ends the crawl.

        What cannot be made is told: the crawl goes on without it.
        """
        if store.path is None:
            return
        for sink in self.sinks:
            tail = Tail(store.path, runs)
            if sink.file is None:
                assert self._stdout is not None
                writing: Feed | Lines = Lines(self._stdout, tail, sink.table)
            else:
                base = 0
                if self._append and sink not in self._held and sink.file.exists():
                    base = sink.file.stat().st_size
                keep = _keeper(asyncio.get_running_loop(), store, next(iter(runs)), _key(sink))
                writing = _feed(tail, sink, keep, self._held.get(sink), base)
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

    @contextlib.contextmanager
    def data_only(self) -> Iterator[None]:
        """While this is entered, what a spider prints goes to stderr if stdout has items;
        else a reader of it that goes away costs no page."""
        printed = Printed(sys.stdout, gone=_tell_gone)
        with contextlib.redirect_stdout(sys.stderr if self._stdout else printed):
            yield
        if self._stdout is None:
            printed.flush()


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
        if isinstance(self._writing, Feed):
            self._tell_content(self._writing, quiet)
            for table in left:
                command = self._export(f"{table}.csv", table)
                self._tell(f"{self._place} has no room for the items of {table}: {command}")
        elif left:
            self._tell(
                f"stdout: {plural(len(left), 'table')} changed behind what was written"
                f" ({', '.join(left)}); as they are now: {self._export('-', self._sink.table)}"
            )
        if self._sink.table:
            await self._try(partial(self._check_table, self._sink.table))

    async def aclose(self) -> None:
        """End the thread; a write that waits for its reader is waited for."""
        with contextlib.suppress(Exception):  # `finish` has raised it, or something worse was
            await self._end()
        await self._on_thread(self._writing.close)
        self._thread.shutdown()

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
        file = "FILE" if self._sink.file is None else f"FILE{self._sink.file.suffix}"
        later = "" if is_last or self._sink.file is None else "it is tried again at the end, or: "
        hint = f"the items are in the database: {later}{self._export(file, self._sink.table)}"
        tell_error(str(reason), hint=hint, event="output", output=self._place)

    def _tell(self, text: str) -> None:
        say(printable(text), event="output", output=self._place)

    def _tell_content(self, feed: Feed, quiet: bool) -> None:
        if not feed.rows:
            what = f" in {self._sink.table}" if self._sink.table else ""
            self._tell(f"{self._place} is empty: {', '.join(feed.runs)} has no items{what}")
        elif not quiet:
            tables = ", ".join(feed.tables)
            self._tell(f"{plural(feed.rows, 'row')} of {tables} in {self._place}")

    def _check_table(self, name: str) -> None:
        """Say where no item came for a table and there are others."""
        with Reader(self._database) as reader:
            tables = reader.tables()
        if tables and name.lower() not in map(str.lower, tables):
            best = nearest(name, tables)
            others = f"did you mean `{best}`?" if best else f"there is: {', '.join(tables)}"
            self._tell(f"-o {self._sink.spelled}: there is no item table `{name}`; {others}")

    def _export(self, file: str, table: str | None) -> str:
        """The command that writes these items."""
        run = self._writing.runs[0]
        place = place_of(run, run.rpartition("-")[0], self._database)
        return command("export", *place, *(("--table", table) if table else ()), "-o", file)


def _tell_gone() -> None:
    say("stdout has no reader any more: what is printed is dropped", event="stdout")


def _feed(
    tail: Tail, sink: Sink, keep: Callable[[Written], None], held: Written | None, base: int = 0
) -> Feed:
    assert sink.file is not None
    return Feed(tail, sink.file, sink.form, keep=keep, table=sink.table, written=held, base=base)


def _is_held(database: str, runs: Mapping[int, str], sink: Sink, held: Written) -> bool:
    """Whether a file is what a run has left, or is gone."""
    with contextlib.closing(_feed(Tail(database, runs), sink, lambda _: None, held)) as feed:
        try:
            feed.check()
        except StorageError:
            return False
    return True


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
