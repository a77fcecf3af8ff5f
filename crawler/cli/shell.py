"""`crawler shell`: selectors and requests tried on a page.

Owns: the options of the command, where code comes from (typed, `-c`, stdin), the prompt
with its history and completion, IPython where it is installed. Does not own: what the names
do (`workbench`).

Invariants: stdout has what code prints and the values it ends in, nothing else; every way
out closes the loop and its connections.
"""

from __future__ import annotations

import ast
import code
import codeop
import contextlib
import inspect
import linecache
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import click

from crawler.cli.onepage import check_scheme, settings_here
from crawler.errors import FetchError, UsageError
from crawler.wording import printable

if TYPE_CHECKING:
    from crawler.cli.workbench import Workbench
    from crawler.response import Response

__all__ = ["command"]

HISTORY_LINES = 2_000
AWAITS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@click.command()
@click.argument("target", required=False, metavar="[URL|FILE]")
@click.option("-c", "source", metavar="CODE", help="Run it and leave; its last value is printed.")
@click.option("-s", "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Setting.")
@click.option("--url", metavar="URL", help="Of the page in FILE, for its links.")
def command(target: str | None, source: str | None, sets: tuple[str, ...], url: str | None) -> int:
    """Try selectors on a page: fetch, css, links, text, and Python with await.

    Without a terminal the code is read from stdin. Exit code: 1 when it raised.
    """
    from crawler.cli.workbench import Workbench
    from crawler.layers import flag_layer

    file = _file(target, url)
    settings = settings_here([flag_layer(sets)])
    if url is not None:
        check_scheme(url, "shell FILE --url")
    is_typed = source is None and sys.stdin.isatty()
    bench = Workbench(settings)
    try:
        if file is not None:
            bench.take(_page_of(file, url))
        elif target is not None and not _begin(bench, target) and not is_typed:
            return 1
        if is_typed:
            return _prompt(bench)
        if source is None:
            return _run(bench, sys.stdin.read(), "<stdin>")
        return _run(bench, source, "<-c>")
    finally:
        bench.close()


# -- the first page -----------------------------------------------------------------------


def _file(target: str | None, url: str | None) -> Path | None:
    """The HTML file that is meant; None: a URL, or nothing."""
    if target is None or "://" in target:
        if target is not None:
            check_scheme(target, "shell")
        if url is not None:
            raise UsageError(
                "--url is for a page in a FILE", hint="crawler shell page.html --url …"
            )
        return None
    file = Path(target)
    if not file.is_file():
        raise UsageError(
            f"`{target}` is no file, and has no scheme", hint=f"crawler shell https://{target}"
        )
    return file


def _page_of(file: Path, url: str | None) -> Response:
    import mimetypes

    from crawler import Request, Response

    where = url or file.resolve().as_uri()
    kind = mimetypes.guess_type(file.name)[0]
    fields = [(b"content-type", kind.encode())] if kind else []
    try:
        body = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint="another one") from error
    return Response(Request(where), where, 200, fields, body)


def _begin(bench: Workbench, url: str) -> bool:
    """Fetch the first page; whether there is one."""
    from crawler.cli.travel import hint_of

    try:
        bench.fetch(url)
    except FetchError as error:
        click.echo(printable(f"error: {error}"), err=True)
        if hint := hint_of(error, url):
            click.echo(f"  hint: {printable(hint)}", err=True)
        return False
    return True


# -- code -----------------------------------------------------------------------------------


def _run(bench: Workbench, source: str, name: str) -> int:
    """Run code, print the value of a last expression; the exit code."""
    from crawler.cli.workbench import tell_error

    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    try:
        value = None
        for part in _parts(source, name):
            value = _value(bench, part)
        if value is not None:
            sys.stdout.write(f"{value!r}\n")
    except SystemExit as end:
        return _code(end)
    except BrokenPipeError:
        raise
    except Exception as error:
        tell_error(error)
        return 1
    return 0


def _parts(source: str, name: str) -> list[CodeType]:
    """Each statement by itself: one that awaits runs on the loop, all others here. The last
    one, if it is an expression, gives a value."""
    compiled = codeop.Compile()
    compiled.flags |= AWAITS
    parts: list[CodeType] = []
    body = ast.parse(source, name).body
    for n, node in enumerate(body, start=1):
        if n == len(body) and isinstance(node, ast.Expr):
            tree: Any = ast.Expression(node.value)
        else:
            tree = ast.Module([node], [])
        kind = "eval" if isinstance(tree, ast.Expression) else "exec"
        parts.append(compiled(tree, name, kind))
    return parts


def _value(bench: Workbench, part: CodeType) -> Any:
    """What code gives; what it awaits is awaited on the bench's loop."""
    value = FunctionType(part, bench.names)()
    return bench.loop.run(value) if part.co_flags & inspect.CO_COROUTINE else value


def _code(end: SystemExit) -> int:
    if isinstance(end.code, str):
        click.echo(printable(end.code), err=True)
        return 1
    return int(end.code or 0)


# -- the prompt -----------------------------------------------------------------------------


def _banner(bench: Workbench) -> str:
    page = bench.page
    lines = ['no page yet: fetch("https://example.com/")']
    if page is not None:
        from crawler.plain import title_of

        title = title_of(page)
        lines = [printable(f"{page!r}{f' “{title}”' if title else ''}", 200)]
    lines += [
        "page, request · fetch(url) · css(selector) · links() · text() · view() · await …",
        "Ctrl-D ends",
    ]
    return "\n".join(lines)


def _prompt(bench: Workbench) -> int:
    if find_spec("IPython") is not None:
        return _ipython(bench)
    with _history(bench.names):
        try:
            _Console(bench).interact(banner=_banner(bench), exitmsg="")
        except SystemExit as end:
            return _code(end)
    return 0


class _Console(code.InteractiveConsole):
    """Python's own prompt, with `await` and the person's frames."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench.names, "<console>")
        self.compile.compiler.flags |= AWAITS
        self._bench = bench

    def runcode(self, part: CodeType) -> None:
        """Run what was typed."""
        try:
            _value(self._bench, part)
        except SystemExit:
            raise
        except KeyboardInterrupt:
            self.write("\nKeyboardInterrupt\n")
        except BaseException as error:
            from crawler.cli.workbench import tell_error

            tell_error(error)


@contextlib.contextmanager
def _history(names: dict[str, Any]) -> Any:
    """Lines of earlier times, and completion; without readline neither."""
    try:
        import readline
        import rlcompleter
    except ImportError:
        yield
        return
    file = _state_folder() / "shell-history"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    before = readline.get_completer()
    readline.set_completer(rlcompleter.Completer(names).complete)
    is_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
        with contextlib.suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
            readline.set_history_length(HISTORY_LINES)
            readline.write_history_file(file)


def _state_folder() -> Path:
    """Where programs keep what they need not lose (XDG base directories)."""
    given = os.environ.get("XDG_STATE_HOME", "")
    state = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
    return state / "crawler"


def _ipython(bench: Workbench) -> int:
    from IPython.terminal.ipapp import TerminalIPythonApp

    from crawler.cli.workbench import tell_error

    def tell(
        _shell: Any, _kind: Any, error: BaseException, _frames: Any, tb_offset: Any = None
    ) -> None:
        tell_error(error)

    app = TerminalIPythonApp.instance(user_ns=bench.names)
    app.display_banner = False
    app.initialize(argv=[])
    shell = app.shell
    bench.names = shell.user_ns
    shell.loop_runner = bench.loop.run
    shell.confirm_exit = False
    shell.set_custom_exc((Exception,), tell)
    click.echo(_banner(bench), err=True)
    app.start()
    return 0
