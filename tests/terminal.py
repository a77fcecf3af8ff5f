"""A terminal for tests: a pty with somebody at its other end, and what stands on its screen."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

_TOKEN = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])|([\s\S])")
_TAKE = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.executable, [sys.executable, '-m', 'crawler', *sys.argv[1:]])"
)


class Screen:
    """As much of a terminal as our output needs; anything else fails the test."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns = columns
        self.rows = rows
        self.lines = [""]
        """All that was ever written, what scrolled off included."""
        self.row = self.column = 0
        self.has_cursor = self.wraps = True

    def feed(self, text: str) -> Screen:
        for question, number, letter, char in _TOKEN.findall(text):
            if char:
                self._write(char)
            elif question:
                self._set(number, letter == "h")
            else:
                self._control(letter, int(number or 1) if number.isdigit() or not number else 0)
        return self

    def shown(self) -> list[str]:
        """The lines without those that are empty at the end."""
        kept = [line.rstrip() for line in self.lines]
        while kept and not kept[-1]:
            kept.pop()
        return kept

    def _set(self, number: str, is_on: bool) -> None:
        if number == "25":
            self.has_cursor = is_on
        elif number == "7":
            self.wraps = is_on
        else:
            assert number == "2004"  # a line editor's paste

    def _control(self, letter: str, number: int) -> None:
        if letter == "A":
            top = max(0, len(self.lines) - self.rows)
            self.row = max(top, self.row - number)
        elif letter == "K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif letter == "J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            del self.lines[self.row + 1 :]
        else:
            assert letter == "m"

    def _write(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self._down()
        else:
            assert char.isprintable(), repr(char)
            if self.column >= self.columns:
                if not self.wraps:
                    self.column = self.columns - 1
                else:
                    self.column = 0
                    self._down()
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + char + line[self.column + 1 :]
            self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")


class Pty:
    """Both ends of a terminal; everything written to it is read at once and kept."""

    def __init__(self, columns: int, rows: int, encoding: str = "utf-8") -> None:
        self._ours, self._theirs = os.openpty()
        self.resize(columns, rows)
        self.stream: TextIO = open(self._theirs, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        self._encoding = encoding
        self._read = b""
        self._came = threading.Condition()
        self._is_over = False
        self._reader = threading.Thread(target=self._follow)
        self._reader.start()

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`crawler` with this as its terminal; stdout too."""
        ours = ("CI", "NO_COLOR", "COLUMNS", "LINES", "LC_ALL")
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        return subprocess.Popen(
            [sys.executable, "-c", _TAKE, *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
            env={**kept, "TERM": "xterm"},
        )

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def wait_for(self, text: str, timeout: float = 20.0) -> None:
        with self._came:
            assert self._came.wait_for(lambda: text.encode() in self._read, timeout), self._read

    def wait_until(self, holds: Callable[[str], bool], timeout: float = 20.0) -> None:
        """Of what was written, which is read a moment later."""
        with self._came:
            assert self._came.wait_for(
                lambda: holds(self._read.decode(self._encoding, "ignore")), timeout
            )

    def so_far(self) -> str:
        """What was written until now."""
        with self._came:
            return self._read.decode(self._encoding, "ignore")

    def text(self) -> str:
        """All that was written; the terminal is closed."""
        if not self._is_over:
            self._is_over = True
            with suppress(OSError):
                self.stream.close()
            os.close(self._theirs)
            self._reader.join()
            os.close(self._ours)
        return self._read.decode(self._encoding)

    def screen(self) -> Screen:
        """What stands there; the terminal is closed."""
        return Screen(self.columns, self.rows).feed(self.text())

    def _follow(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65_536)
            except OSError:  # nobody has the other end any more
                return
            if not data:
                return
            with self._came:
                self._read += data
                self._came.notify_all()


@contextmanager
def terminal(columns: int = 80, rows: int = 24, encoding: str = "utf-8") -> Iterator[Pty]:
    pty = Pty(columns, rows, encoding)
    try:
        yield pty
    finally:
        pty.text()
