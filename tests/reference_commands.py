"""docs/reference/commands.md: every command as click knows it, and what click does not know.

Owns: what arguments mean, exit codes, an example of each command. Does not own: options
and their meaning (the commands), writing the page (`tests.reference`).
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module

import click

from crawler.cli import COMMANDS, EXIT_STORAGE
from tests.markdown import table

__all__ = [
    "ARGUMENTS",
    "EXAMPLES",
    "EXIT_CODES",
    "exits",
    "is_command",
    "loaded",
    "options",
    "page",
    "words_used",
]

HEAD = """# Commands

{written}Data goes to stdout and everything else to stderr. A mistake in a command is one line `error:` and one line `hint:`, with the nearest right name, and nothing has been fetched by then. `--help` behind a command shows what stands here.

Commands that look at a database take `SPIDER|RUN|FILE`: a spider (its latest run), the id of a run (`books-3`), a database file, or nothing: the latest run of the current folder. They read it while a crawl writes it. `--db FILE` says which file where that is not clear. `-h` and `--help` belong to each command.

"""  # noqa: E501 - one paragraph a line, as in the documents

EXIT_CODES = {
    0: "Done. Also: whoever read stdout has gone away.",
    1: "Not what was asked for: callbacks raised and no item came, `start()` raised, no page"
    " could be had, a check failed, a running crawl refused.",
    2: "A mistake in command, settings or spider; nothing was fetched.",
    3: "No start URL could be fetched.",
    4: "Waiting, or stopped by `crawler set stop`: the same command goes on.",
    5: "The database: cannot be read or written, is in use, or belongs to another program.",
    70: "A mistake in crawler itself, told with its traceback.",
    130: "Stopped by Ctrl-C (SIGINT), state saved.",
    143: "Stopped by SIGTERM, state saved.",
}

ALWAYS = (0, 2, 70)
"""Exit codes of every command."""

EXITS: dict[str, tuple[int, ...]] = {
    "demo": (130, 143),
    "doctor": (1,),
    "fetch": (1,),
    "parse": (1,),
    "run": (1, 3, 4, 130, 143),
    "set": (1,),
    "shell": (1,),
    "status": (130,),
}
"""Command to its further exit codes; those that read a database have 5 as well."""

ARGUMENTS: dict[str, str] = {
    "set.words": "Which crawl, where there are several; then what to do: `pause`, `resume`,"
    " `stop`, `delay=SECONDS`, `delay=auto` or `concurrency=N`.",
    "folder": "Where to; left out: the current folder.",
    "doctor.host": "A host to try: its name, connection, TLS and robots.txt.",
    "key": "A setting or a group of them, as `domain.delay` or `domain`.",
    "name": "Of the spider; it becomes spiders/NAME.py.",
    "new.url": "Where it starts.",
    "query": "One SELECT.",
    "shell.target": "A page, or the file of a saved one.",
    "spider": "A spider, by name or file.",
    "target": "Spider, run or database; left out: the latest run here.",
    "targets": "Spiders, by name (`crawler list`) or file; URLs among them replace the start URLs.",
    "url": "The page.",
    "why.url": "A URL of the run.",
}
"""Argument, as `command.name` where commands differ, to its meaning."""

EXAMPLES: dict[str, str] = {
    "config": "crawler config --domain img.shop.example",
    "demo": "crawler demo --fresh",
    "doctor": "crawler doctor shop.example",
    "errors": "crawler errors books --code no-match",
    "export": "crawler export books -o books.csv",
    "fetch": "crawler fetch https://shop.example/ -H 'Accept-Language: en' --text",
    "init": "crawler init shop",
    "list": "crawler list --json",
    "new": "crawler new books https://shop.example/ -t follow",
    "parse": "crawler parse books https://shop.example/book/1 --callback book",
    "report": "crawler report books-3",
    "requeue": "crawler requeue books --code http-503 --dry-run",
    "run": "crawler run pages http://127.0.0.1:8080/ -s domain.delay=1 --limit 50 -o pages.csv",
    "runs": "crawler runs books",
    "set": "crawler set books delay=2 --domain slow.example",
    "shell": "crawler shell https://shop.example/ -c 'print(page.getall(\"h2 a\"))'",
    "sql": 'crawler sql "select * from v_pools" books --csv',
    "status": "crawler status books --watch",
    "why": "crawler why https://shop.example/book/1 books",
}


def loaded(name: str) -> click.Command:
    """The command of a name."""
    command: click.Command = import_module(COMMANDS[name].module).command
    return command


def options(command: click.Command) -> set[str]:
    """Every way to write an option of a command."""
    ways = {way for each in command.params for way in (*each.opts, *each.secondary_opts)}
    return ways | {"-h", "--help"}


def is_command(line: str) -> bool:
    """Whether `crawler NAME …` is one, as far as its name and options go."""
    _, name, *rest = line.split(" ")
    ways = options(loaded(name)) if name in COMMANDS else set()
    told = (part.rstrip(";,.").partition("=")[0] for part in rest if re.match("--?[a-zA-Z]", part))
    return bool(ways) and all(way in ways for way in told)


def page(written: str) -> str:
    """The whole page; `written` says how it came about."""
    parts = [HEAD.format(written=written)]
    for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
        names = [name for name, entry in COMMANDS.items() if entry.section == section]
        parts += [f"## {section}\n\n", *map(_entry, names)]
    codes = [(str(number), meaning) for number, meaning in EXIT_CODES.items()]
    return "".join([*parts, "## Exit codes\n\n", table(("code", "meaning"), codes)])


def exits(name: str) -> list[int]:
    """The exit codes of a command."""
    reads = any(each.name == "db" for each in loaded(name).params)
    return sorted({*ALWAYS, *EXITS.get(name, ()), *((EXIT_STORAGE,) if reads else ())})


def _entry(name: str) -> str:
    command = loaded(name)
    context = click.Context(command)
    usage = " ".join(command.collect_usage_pieces(context))
    return "".join(
        [
            f"### crawler {name}\n\n{_help(command)}\n\n",
            f"```text\ncrawler {name} {usage}\n```\n\n",
            table(("argument", "meaning"), _arguments(name, context)),
            table(("option", "meaning", "default"), _options(context)),
            f"Exit codes: {', '.join(map(str, exits(name)))}.\n\n",
            f"```sh\n{EXAMPLES[name]}\n```\n\n",
        ]
    )


def _help(command: click.Command) -> str:
    text = inspect.cleandoc(command.help or "").partition("\f")[0].replace("\b\n", "")
    return _escaped(re.sub(r"(?<=\S)\n(?=\S)", " ", text).strip())


def words_used(name: str) -> list[str]:
    """The keys of ARGUMENTS by which a command's arguments are explained."""
    found = [each for each in loaded(name).params if isinstance(each, click.Argument)]
    own = {each.name: f"{name}.{each.name}" for each in found}
    return [word if word in ARGUMENTS else str(each) for each, word in own.items()]


def _arguments(name: str, context: click.Context) -> list[tuple[str, str]]:
    found = [each for each in context.command.params if isinstance(each, click.Argument)]
    metavars = (each.make_metavar(context) for each in found)
    return [
        (f"`{_bare(metavar)}`", ARGUMENTS[word])
        for metavar, word in zip(metavars, words_used(name), strict=True)
    ]


def _bare(metavar: str) -> str:
    """`[QUERY]` without its brackets; usage says what may be left out."""
    inner = metavar[1:-1]
    return inner if metavar == f"[{inner}]" and "]" not in inner else metavar


def _options(context: click.Context) -> list[tuple[str, str, str]]:
    rows = []
    for each in context.command.params:
        if isinstance(each, click.Option) and not each.hidden:
            takes = "" if each.is_flag or each.count else f" {each.make_metavar(context)}"
            ways = (f"`{way}{takes}`" for way in (*each.opts, *each.secondary_opts))
            meaning = (each.help or "") + (" May be repeated." if each.multiple else "")
            rows.append((", ".join(ways), _escaped(meaning.strip()), _default(each)))
    return rows


def _default(option: click.Option) -> str:
    value = option.to_info_dict()["default"]
    is_nothing = value in (None, (), [], False) or option.is_flag or option.count
    return "" if is_nothing else f"`{value}`"


def _escaped(text: str) -> str:
    """`<spider>` is no tag."""
    return re.sub(r"(?<![`\w])<(?=\w)", r"\\<", text)
