"""`crawler set`: steer a running crawl from another terminal.

Owns: which words are actions, the wait for the crawl's answer. Does not own: what an
action means (`crawler.steering`), carrying it out (the crawl that has the database).

Invariants: the database is not written; what is asked for is checked before the crawl
hears of it; the exit code says what the crawl answered: 0 done, 1 refused or no answer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
import msgspec

from crawler.cli.places import db_option, locate
from crawler.cli.voice import tell_error
from crawler.errors import UsageError, nearest
from crawler.live import decode
from crawler.steering import ACTIONS, encode, is_action, read_action
from crawler.wording import printable
from storage import StorageError, append_control, read_live
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.live import Answered
    from crawler.steering import Command

__all__ = ["command"]

ANSWER_S = 5.0
LOOK_EVERY_S = 0.05
EXIT_REFUSED = 1


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[SPIDER|RUN|FILE] ACTION...")
@click.option("--domain", metavar="HOST", help="Only this one, or a pattern: '*.example.com'.")
@db_option
def command(words: tuple[str, ...], domain: str | None, db: str | None) -> int:
    """Steer a running crawl: pause, resume, stop, its pace.

    ACTION is pause, resume, stop, delay=SECONDS, delay=auto or concurrency=N: a plain
    number, as in delay=2, is seconds; delay=500ms works too. Without --domain a pace holds
    for every domain. It lasts as long as the crawl: the next run has the pace of its
    settings.
    """
    target, actions = _told_apart(words)
    names_a_run = target is not None and not target.endswith(".db")
    host = _checked_host(domain)
    commands = [read_action(word, domain=host) for word in actions]
    place = locate(target, db)
    if place.run is None or not _is_running(str(place.file)):
        raise UsageError(
            f"no crawl is running in {place.file}",
            hint=f"`crawler run {place.run.rpartition('-')[0] if place.run else 'SPIDER'}`",
        )
    if names_a_run and str(place.file) != target:
        commands = [msgspec.structs.replace(one, run=place.run) for one in commands]
    return _steer(str(place.file), commands)


def _told_apart(words: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The target, if the first word is one, and the actions."""
    if is_action(words[0]):
        return None, words
    if len(words) == 1:
        best = nearest(words[0], ACTIONS)
        if best is not None:
            raise UsageError(f"unknown action `{words[0]}`", hint=f"did you mean `{best}`?")
        raise UsageError(f"what is `{words[0]}` to do?", hint=f"crawler set {words[0]} pause")
    return words[0], words[1:]


def _checked_host(domain: str | None) -> str | None:
    if domain is None:
        return None
    if not domain or "/" in domain or domain != "".join(domain.split()):
        raise UsageError(
            f"--domain {domain!r} is no host",
            hint="--domain shop.example, or a pattern: --domain '*.shop.example'",
        )
    return domain.lower()


def _is_running(file: str) -> bool:
    with Reader(file) as reader:
        return reader.is_in_use


def _steer(file: str, commands: Sequence[Command]) -> int:
    """Hand commands over and print what the crawl says to each; the exit code."""
    end_at = time.monotonic() + ANSWER_S
    try:
        numbers = [append_control(file, encode(one)) for one in commands]
    except StorageError:
        if _is_running(file):
            raise
        raise UsageError(f"no crawl is running in {file}", hint="`crawler run SPIDER`") from None
    answers = [_answer_to(number, file, end_at) for number in numbers]
    return max(_tell(asked, answer, file) for asked, answer in zip(commands, answers, strict=True))


def _tell(asked: Command, answer: Answered | None, file: str) -> int:
    """Print what the crawl said, or that it said nothing; the exit code."""
    if answer is not None and answer.is_done:
        click.echo(printable(answer.text))
        return 0
    if answer is not None:
        error, hint = answer.text, _hint(asked)
    elif _is_running(file):
        error = f"{asked}: no answer within {ANSWER_S:g} s, it may still come"
        hint = "`crawler status` shows whether the crawl is alive"
    elif asked.action == "stop":
        click.echo(f"{asked}: the crawl has ended")
        return 0
    else:
        error, hint = f"{asked}: the crawl ended before it answered", "`crawler runs` says how"
    tell_error(error, hint=hint)
    return EXIT_REFUSED


def _answer_to(number: int, file: str, end_at: float) -> Answered | None:
    """The crawl's answer; None: none came in time, or the crawl has ended."""
    while time.monotonic() < end_at:
        seen = _seen(file)
        if seen is None and not _is_running(file):
            return None
        found = [answer for answer in seen or () if answer.number == number]
        if found:
            return found[0]
        time.sleep(LOOK_EVERY_S)
    return None


def _seen(file: str) -> tuple[Answered, ...] | None:
    """The answers that the crawl shows; None: it shows nothing."""
    data = read_live(file)
    try:
        return None if data is None else decode(data).answers
    except msgspec.DecodeError:
        return None


def _hint(asked: Command) -> str:
    if asked.action == "concurrency":
        return "give less, or run it again with `-s pool.sockets=N` and `-s concurrency=N`"
    return "`crawler status` shows the runs and their state"
