"""`crawler shell`: selectors and requests tried on a page.

Owns: the options of the command, where code comes from (typed, `-c`, stdin), the prompt
with its completion, IPython where it is installed. Does not own: what the names
do (`workbench`).

Invariants: stdout has what code prints and the values it ends in, nothing else; every way
out closes the loop and its connections.
"""

from __future__ import annotations

import ast
import code
import codeop
import inspect
import linecache
import sys
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import click

from crawler.cli.onepage import check_scheme, read_stdin, settings_here, tell_fetch_error
from crawler.errors import FetchError, UsageError
from crawler.wording import printable

if TYPE_CHECKING:
    from crawler.cli.workbench import Workbench
    from crawler.response import Response

__all__ = ["command"]

AWAITS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@click.command()
@click.argument("target", required=False, metavar="[URL|FILE]")
@click.option("-c", "source", metavar="CODE", help="Run it and leave; its last value is printed.")
@click.option(
    "-s",
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Setting, e.g. -s domain.delay=2; may be repeated.",
)
def command(target: str | None, source: str | None, sets: tuple[str, ...]) -> int:
    """Try selectors on a page: page, fetch, css, links, and Python with await.

    Without a terminal the code is read from stdin. Exit code: 1 when it raised.
    """
    from crawler.cli.workbench import Workbench
    from crawler.layers import flag_layer

    file = _file(target)
    is_typed = source is None and sys.stdin is not None and sys.stdin.isatty()
    bench = Workbench(settings_here([flag_layer(sets)]))
    try:
        if file is not None:
            bench.take(_page_of(file))
        elif target is not None and not _begin(bench, target) and not is_typed:
            return 1
        if is_typed:
            return _prompt(bench)
        if source is not None:
            return _run(bench, source, "<-c>")
        return _run(bench, read_stdin(), "<stdin>")
    finally:
        bench.close()


# -- the first page -----------------------------------------------------------------------


def _file(target: str | None) -> Path | None:
    """The HTML file that is meant; None: a URL, or nothing."""
    if target is None or "://" in target:
        if target is not None:
            check_scheme(target, "shell")
        return None
    file = Path(target)
    if file.is_dir() or not file.exists():
        raise UsageError(
            f"`{target}` is no file, and has no scheme", hint=f"crawler shell https://{target}"
        )
    return file


def _page_of(file: Path) -> Response:
    import mimetypes

    from crawler import Request, Response

    where = file.absolute().as_uri()
    kind = mimetypes.guess_type(file.name)[0]
    fields = [(b"content-type", kind.encode())] if kind else []
    try:
        body = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint="another one") from error
    return Response(Request(where), where, 200, fields, body)


def _begin(bench: Workbench, url: str) -> bool:
    """Fetch the first page; whether there is one."""
    try:
        bench.fetch(url)
    except FetchError as error:
        tell_fetch_error(error, url)
        return False
    return True


# -- code -----------------------------------------------------------------------------------


def _run(bench: Workbench, source: str | bytes, name: str) -> int:
    """Run code, print the value of a last expression; the exit code."""
    from crawler.cli.workbench import tell_raised

    text = source if isinstance(source, str) else source.decode("utf-8", "replace")
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
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
        tell_raised(error)
        return 1
    return 0


def _parts(source: str | bytes, name: str) -> list[CodeType]:
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
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    click.echo(printable(str(end.code)), err=True)
    return 1


# -- the prompt -----------------------------------------------------------------------------


def _banner(bench: Workbench) -> str:
    page = bench.page
    lines = ['no page yet: fetch("https://example.com/")']
    if page is not None:
        from crawler.plain import title_of

        title = title_of(page)
        lines = [printable(f"{page!r}{f' “{title}”' if title else ''}", 200)]
    lines += [
        "page · fetch(url) · css(selector) · links() · await …",
        "Ctrl-D ends",
    ]
    return "\n".join(lines)


def _prompt(bench: Workbench) -> int:
    if find_spec("IPython") is not None:
        return _ipython(bench)
    _complete(bench.names)
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
            from crawler.cli.workbench import tell_raised

            tell_raised(error)


def _complete(names: dict[str, Any]) -> None:
    """Lines can be edited and names completed, where there is readline."""
    try:
        import readline
        import rlcompleter
    except ImportError:
        return
    readline.set_completer(rlcompleter.Completer(names).complete)
    is_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")


def _ipython(bench: Workbench) -> int:
    from IPython.terminal.ipapp import TerminalIPythonApp

    from crawler.cli.workbench import tell_raised

    def tell(
        _shell: Any, _kind: Any, error: BaseException, _frames: Any, tb_offset: Any = None
    ) -> None:
        tell_raised(error)

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
