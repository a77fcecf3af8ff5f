"""The `crawler` command: its subcommands, and how their mistakes are told.

Owns: the list of commands, exit codes, the form of errors. Does not own: what a command
does; each stands in a module of its own, as `command`, imported when it is called.

Invariants: data goes to stdout and everything else to stderr; help and a mistyped command
import no command; every mistake of a person is one line `error:` and one line `hint:`.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import click

from crawler.about import VERSION
from crawler.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "EXIT_BUG", "EXIT_STORAGE", "EXIT_USAGE", "Entry", "main"]

EXIT_USAGE = 2
EXIT_STORAGE = 5
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Entry(NamedTuple):
    """A command that is imported when it is called."""

    section: str
    module: str
    """Holds the click command as `command`."""
    summary: str


COMMANDS = {
    "demo": Entry("Start", "crawler.cli.demo", "Crawl a built-in site; needs no network"),
    "init": Entry("Start", "crawler.cli.init", "Make a project in a folder"),
    "new": Entry("Start", "crawler.cli.new", "Make a spider from a template"),
    "run": Entry("Run", "crawler.cli.run", "Run a spider, or go on with an interrupted run"),
    "set": Entry("Run", "crawler.cli.set", "Steer a running crawl: pause, stop, pace"),
    "requeue": Entry("Run", "crawler.cli.requeue", "Queue failed or dropped URLs again"),
    "status": Entry("Look", "crawler.cli.status", "What a run is doing now"),
    "runs": Entry("Look", "crawler.cli.runs", "Runs in a database"),
    "report": Entry("Look", "crawler.cli.report", "Summary of a run"),
    "errors": Entry("Look", "crawler.cli.errors", "Failures by cause and domain"),
    "why": Entry("Look", "crawler.cli.why", "What became of one URL, and why"),
    "sql": Entry("Look", "crawler.cli.sql", "Query a database"),
    "fetch": Entry("Write spiders", "crawler.cli.fetch", "Fetch one page, and how it travelled"),
    "shell": Entry("Write spiders", "crawler.cli.shell", "Try selectors on a page"),
    "parse": Entry("Write spiders", "crawler.cli.parse", "Try a callback on one page"),
    "list": Entry("Write spiders", "crawler.cli.spiders", "Spiders that can be run"),
    "export": Entry("Data", "crawler.cli.export", "Items as CSV, JSON or JSON lines"),
    "config": Entry("Machine", "crawler.cli.config", "Settings in effect, and their origin"),
    "doctor": Entry("Machine", "crawler.cli.doctor", "Is this machine fit to crawl?"),
}


ELSEWHERE = {
    "crawl": "run SPIDER",
    "runspider": "run FILE.py",
    "start": "run SPIDER",
    "resume": "run SPIDER",
    "scrape": "run pages URL",
    "bench": "demo",
    "genspider": "new NAME",
    "startproject": "init DIR",
    "stop": "set stop",
    "pause": "set pause",
    "check": "config --check",
    "settings": "config --list",
}
"""What other crawlers call a command, or a person may: ours."""


class Program(click.Group):
    """The group of lazily imported commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None: there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name].module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but an unknown command gets the nearest name as its hint."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            best = _counterpart(*args[:2]) or nearest(args[0], COMMANDS)
            raise UsageError(
                f"unknown command `{args[0]}`",
                hint=f"did you mean `crawler {best}`?" if best else "`crawler --help`",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by section, without importing them."""
        width = max(map(len, COMMANDS))
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (name.ljust(width), entry.summary)
                        for name, entry in COMMANDS.items()
                        if entry.section == section
                    ]
                )


def _counterpart(name: str, given: str = "") -> str | None:
    """Our command for another's, with the first word that was given to that."""
    ours, _, wanted = ELSEWHERE.get(name, "").rpartition(" ")
    is_open = wanted.removesuffix(".py").isupper()
    if is_open and given and not given.startswith("-"):
        wanted = given
    return f"{ours} {wanted}".strip() or None


@click.command(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, "-V", "--version", prog_name="crawler")
def program() -> None:
    """Polite web crawls into SQLite that survive kill -9."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (None: that of the process) and return its exit code."""
    args = sys.argv[1:] if argv is None else list(argv)
    _open_closed()
    try:
        return _invoke(args)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.message, err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        return _refuse(*_told(error, args), EXIT_USAGE, args)
    except UsageError as error:
        return _refuse(str(error), error.hint, EXIT_USAGE, args)
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except Exception as error:
        return _failed(error, args)


def _invoke(args: Sequence[str]) -> int:
    """Run a command; the exit code is what it returns, 0 for None."""
    try:
        with program.make_context("crawler", list(args)) as context:
            answer = program.invoke(context)
    except click.exceptions.Exit as end:
        answer = end.exit_code
    sys.stdout.flush()
    return answer if isinstance(answer, int) else 0


def _failed(error: Exception, args: Sequence[str]) -> int:
    from storage import StorageError

    if isinstance(error, StorageError):
        return _refuse(str(error), error.hint, EXIT_STORAGE, args)
    if isinstance(error, OSError) and error.filename is None and error.errno in _FULL:
        _forget_stdout()
        told = f"stdout cannot be written: {error.strerror}"
        return _refuse(told, "make room, or write to another place", EXIT_STORAGE, args)
    import traceback

    told = f"a mistake in crawler itself: {type(error).__name__}"
    hint = "report it with the lines above"
    if _speaks_json(args):
        detail = "".join(traceback.format_exception(error))
        return _refuse(told, "report it with its detail", EXIT_BUG, args, detail=detail)
    traceback.print_exception(error)
    return _refuse(told, hint, EXIT_BUG, args)


def _refuse(message: str, hint: str | None, code: int, args: Sequence[str], **facts: str) -> int:
    from crawler.cli.voice import tell_error

    tell_error(message, hint=hint, form="json" if _speaks_json(args) else "text", **facts)
    return code


def _speaks_json(args: Sequence[str]) -> bool:
    """The command was told to say everything as JSON, mistakes in its options included."""
    return "--log-format=json" in args or ("--log-format", "json") in pairwise(args)


def _told(error: click.ClickException, args: Sequence[str]) -> tuple[str, str]:
    """A click error in our words."""
    path = " ".join(["crawler", *[arg for arg in args[:1] if arg in COMMANDS]])
    hint = f"`{path} --help`"
    if isinstance(error, click.NoSuchOption):
        if error.possibilities:
            hint = f"did you mean `{error.possibilities[0]}`?"
        return f"unknown option `{error.option_name}` of `{path}`", hint
    message = error.format_message().rstrip(".")
    return message[:1].lower() + message[1:], hint


def _open_closed() -> None:
    """Give the streams that were closed at the start an end that takes everything: their
    numbers would be those of the next files that are opened."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _forget_stdout() -> None:
    """Whoever read our output has gone: nothing may be flushed into the pipe at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
