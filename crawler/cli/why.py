"""`crawler why URL`: what became of one URL of a run, and why.

Owns: drawing. Does not own: the facts (`story`), the words for them (`verdict`).

Invariant: text from the web is made printable.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import click

from crawler.cli.paragraphs import Line, frames, next_lines, say
from crawler.cli.places import db_option, locate_run, target_argument
from crawler.commands import not_kept, target_of
from crawler.errors import UsageError
from crawler.story import look_up
from crawler.verdict import instant, judge, unseen
from crawler.wording import duration, plural, printable, size
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Collection

    from crawler.rows import Record
    from crawler.story import Life, Story
    from crawler.verdict import Verdict

__all__ = ["command"]

VALUE = 60
"""Characters of an item's value."""
ITEMS = 5
FOLLOWED = {
    "deliver": "delivered",
    "redirect": "redirect followed",
    "retry": "tried again",
    "give-up": "given up",
}


@click.command()
@click.argument("url")
@target_argument
@db_option
@click.option("--json", "as_json", is_flag=True, help="As JSON, with all that is stored.")
def command(url: str, target: str | None, db: str | None, as_json: bool) -> None:
    """Tell what became of a URL: seen or not, where it was found, what was tried, and why.

    Works while the crawl runs. The run is the one named, or the latest.
    """
    run = locate_run(target, db)
    with Reader(run.file) as reader:
        story = look_up(reader, run.id, url)
        if story.run["state"] == "running" and not reader.is_in_use:
            story.run.update(state="interrupted", ended_by="crash")
    has_scope = any(life.request["reason"] == "scope" for life in story.lives)
    scope = _scope(target_of(story.run)) if has_scope else None
    known: dict[str, Any] = {"database": str(run.file), "now": time.time(), "scope": scope}
    verdicts = [judge(story, life, **known) for life in story.lives]
    verdicts = verdicts or [unseen(story, database=str(run.file))]
    if as_json:
        _write(story, verdicts)
        return
    lines = [Line("", story.url), Line("  ", f"in {run.id}, {run.file}")]
    if story.url != url:
        lines.append(Line("  ", f"given as {url}"))
    for number, (life, verdict) in enumerate(zip(story.lives, verdicts, strict=False)):
        lines += [Line("")] if number else []
        lines += _told(life, verdict)
    if not story.lives:
        lines += _answer("not seen", verdicts[0])
        lines += [_line("seen are", "")] * bool(story.near)
    for row in story.near:
        reason = f", {row['reason']}" if row["reason"] else ""
        lines.append(_line("", f"{row['url']} ({row['state']}{reason})"))
    if story.is_partial:
        lines.append(
            Line("  ", "(a large domain: other methods, keys and the like were not looked for)")
        )
    commands = dict.fromkeys(one for verdict in verdicts for one in verdict.commands)
    lines += next_lines(list(commands))
    if any(one.startswith("crawler run ") for one in commands) and (lacks := not_kept(story.run)):
        lines.append(Line("      ", lacks))
    say(lines)


def _scope(spider: str) -> Collection[str] | None:
    """The spider's allowed_domains; None: it has none, or it is not here."""
    from crawler.loading import find

    try:
        allowed = find(spider).allowed_domains
    except UsageError:
        return None
    return None if allowed is None else tuple(allowed)


def _write(story: Story, verdicts: list[Verdict]) -> None:
    import json

    told = dataclasses.asdict(story)
    if story.lives:
        for life, verdict in zip(told["lives"], verdicts, strict=True):
            life["verdict"] = verdict._asdict()
    else:
        told["verdict"] = verdicts[0]._asdict()
    click.echo(json.dumps(told, indent=2, ensure_ascii=False, default=_bytes))


def _bytes(value: bytes) -> str:
    import base64

    return base64.b64encode(value).decode()


# -- one request --------------------------------------------------------------------------


def _told(life: Life, verdict: Verdict) -> list[Line]:
    request = life.request
    state, method = request["state"], request["method"]
    lines = _answer(state if method == "GET" else f"{method} {state}", verdict) + _found(life)
    if life.redirected_from:
        lines.append(_line("redirects", " → ".join((*life.redirected_from, request["url"]))))
    for number, attempt in enumerate(life.attempts, 1):
        lines.append(_line(f"try {number}", _attempt(attempt)))
    for error in life.errors:
        lines.append(_line("error", f"{error['code']}: {error['message']}".rstrip(": ")))
        lines += [_line("", row, wraps=False) for row in frames(error["detail"])]
    for table, item in life.items[:ITEMS]:
        lines.append(_line("item", f"{table}: {_values(item)}"))
    if len(life.items) > ITEMS:
        lines.append(_line("", f"… and {plural(len(life.items) - ITEMS, 'item')} more"))
    return lines


def _answer(label: str, verdict: Verdict) -> list[Line]:
    first, *others = verdict.sentences
    lines = [_line(label, first), *(_line("", sentence) for sentence in others)]
    return [*lines, _line("do", verdict.hint)] if verdict.hint else lines


def _line(label: str, text: str, *, wraps: bool = True) -> Line:
    return Line(f"  {label:<9} ", text, wraps)


def _found(life: Life) -> list[Line]:
    request, key = life.request, life.request["payload"].get("key")
    marks = [f"depth {request['depth']}", instant(request["discovered_at"])]
    if key is not None:
        marks.append(f"key {key!r}")
    if request["priority"]:
        marks.append(f"priority {request['priority']}")
    if not life.parents:
        marks.insert(0, "a start URL")
    lines = [_line("found", ", ".join(marks))]
    for parent in life.parents:
        start = " (start URL)" if not parent["depth"] and parent is life.parents[-1] else ""
        lines.append(_line("  on", f"{parent['url']}{start}"))
    is_cut = life.parents and life.parents[-1]["depth"]
    return [*lines, _line("", "… and further up")] if is_cut else lines


def _attempt(attempt: Record) -> str:
    """When, what came of it, and where its time went."""
    answer = attempt["error"] or attempt["status"]
    when = instant(attempt["started_at"])[11:-4]
    parts = [f"{duration(attempt['total_s'])} in all"]
    for name, label in (("wait_s", "waited"), ("connect_s", "connect"), ("ttfb_s", "first byte")):
        if attempt[name] is not None:
            parts.append(f"{label} {duration(attempt[name])}")
    parts.append(size(attempt["bytes_received"] or 0))
    if attempt["reused"] is not None:
        parts.append("open connection" if attempt["reused"] else "new connection")
    if attempt["proxy"]:
        parts.append(f"by {attempt['proxy']}")
    then = FOLLOWED.get(str(attempt["decision"]), str(attempt["decision"]))
    return f"{when} {answer}, {then} ({', '.join(parts)})"


def _values(item: Record) -> str:
    return ", ".join(
        f"{name}={printable(value if isinstance(value, str) else repr(value), VALUE)}"
        for name, value in item.items()
        if value is not None
    )
