"""Why a request stands where it stands, in plain words, and what can be done. Pure.

Owns: the sentence for every state and reason, the next commands. Does not own: the facts
(`story`), the words of codes (`codes`).

Invariants: every state has a sentence, an unknown reason is told as it is; `now` is wall
clock, and no other clock is read.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from crawler.commands import command, place_of, run_again
from crawler.errors import advice, code_of
from crawler.wording import duration, plural

if TYPE_CHECKING:
    from collections.abc import Collection

    from crawler.story import Life, Record, Story

__all__ = ["Verdict", "foretell", "instant", "judge"]

AGAIN = ("domain", "request", "spider", "local")
"""Faults for which another try is worth while."""


class Verdict(NamedTuple):
    """What is said of a request."""

    sentences: tuple[str, ...]
    """The first one is the answer, the others say more."""
    hint: str = ""
    """What to do about it; empty: nothing needs doing."""
    commands: tuple[str, ...] = ()


def judge(
    story: Story, life: Life, *, database: str, now: float, scope: Collection[str] | None = None
) -> Verdict:
    """Why this request stands where it stands.

    `scope` is the spider's allowed_domains; None: it has none, or the spider is not here.
    """
    place = place_of(story.run["id"], story.run["spider"], database)
    request, state = life.request, life.request["state"]
    if state == "queued":
        return _queued(story, life, database, now)
    if state == "sent":
        said = "it was sent, and no answer is stored: it is under way, or its process died"
        return Verdict((said,), "the same `crawler run` settles it", (_again(story, database),))
    if state == "done":
        return _done(life, place)
    if state == "dropped":
        return _dropped(story, life, place, scope)
    return _failed(story, life, request["reason"] or "failed", place)


def instant(at: float) -> str:
    """A wall-clock instant as `2026-11-20 19:30:01 UTC`."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


# -- by state -----------------------------------------------------------------------------


def _queued(story: Story, life: Life, database: str, now: float) -> Verdict:
    request, domain = life.request, life.domain
    is_running = story.run["state"] == "running"
    not_before = request["not_before"]
    if not_before is not None:
        last = _last_problem(life)
        why = f" after {last}" if last and request["attempts"] else ""
        said = [f"it waits {_until(not_before, now)}{why}: attempt {request['attempts'] + 1}"]
    elif life.ahead:
        said = [f"it waits for its turn, after {plural(life.ahead, 'URL')} of its domain"]
    else:
        said = ["it is next in its domain" + (", or on the wire now" if is_running else "")]
    said += _domain_says(domain, now)
    if is_running:
        return Verdict(tuple(said))
    said.append(f"its run is {story.run['state']}: nothing is sent until it is gone on with")
    return Verdict(tuple(said), commands=(_again(story, database),))


def _domain_says(domain: Record, now: float) -> list[str]:
    """What its domain waits for."""
    name, state, next_at = domain.get("domain"), domain.get("state"), domain.get("next_at")
    until = f" {_until(next_at, now)}" if next_at is not None and next_at > now else ""
    if state == "throttled":
        return [f"{name} asked for patience (429, or 503 with Retry-After): it rests{until}"]
    if state in ("unreachable", "dead"):
        return [f"{name} could not be reached: it rests{until}, then one request tries it"]
    if state not in (None, "ok"):
        return [f"{name} is {state}{until}"]
    pace = f", a start each {duration(domain['delay'])}" if domain.get("delay") else ""
    return [f"{name} starts nothing{until}{pace}"] if until else []


def _done(life: Life, place: Collection[str]) -> Verdict:
    reason = life.request["reason"]
    if reason == "redirected":
        target = life.redirected_to
        commands = (command("why", target, *place),) if target else ()
        where = f"to {target}" if target else "to a URL that cannot be told any more"
        return Verdict((f"it redirects {where}",), commands=commands)
    if reason == "redirected_known":
        said = "it redirects to a URL that the run had already, and which is not fetched twice"
        hint = f"`{command('fetch', life.request['url'])}` shows where it leads"
        return Verdict((said,), hint)
    callback = life.request["payload"].get("callback", "parse")
    gave = f"it gave {plural(len(life.items), 'item')}" if life.items else "it gave no item"
    said = f"it was delivered to `{callback}`{f' ({reason})' if reason else ''}"
    return Verdict((said, f"{gave} and {plural(life.links, 'new link')}"))


def _dropped(
    story: Story, life: Life, place: Collection[str], scope: Collection[str] | None
) -> Verdict:
    request, reason = life.request, life.request["reason"] or ""
    host = request["domain"]
    if reason == "scope":
        said = [f"it was not accepted: {host} is out of scope ({_scope(scope)})"]
    elif reason == "robots":
        parts = urlsplit(request["url"])
        said = [f"{parts.scheme}://{parts.netloc}/robots.txt forbids it (robots.obey is on)"]
        said += _robots_says(life.robots)
    else:
        said = [f"it was refused: {_meaning(reason)}"]
    hint = _hint(story, request, reason)
    if reason == "robots":
        rules = command("fetch", f"{parts.scheme}://{parts.netloc}/robots.txt")
        hint = f"`{rules}` shows the rules; where the site is yours: `-s robots.obey=false`"
    again = command("requeue", *place, "--where", f"id = {request['id']}")
    return Verdict(tuple(said), hint, (again,))


def _failed(story: Story, life: Life, reason: str, place: Collection[str]) -> Verdict:
    request = life.request
    known = code_of(reason)
    said = [f"it failed with {reason}: {_meaning(reason)}"]
    if reason == "unknown":
        said = ["it was sent, and the process died before its answer was stored"]
    hint = _hint(story, request, reason)
    again = command("requeue", *place, "--where", f"id = {request['id']}")
    is_worth = known is None or known.fault in AGAIN or known.fault == "rule"
    return Verdict(tuple(said), hint, (again,) if is_worth else ())


# -- never seen ---------------------------------------------------------------------------


def foretell(
    story: Story, *, database: str, now: float, scope: Collection[str] | None = None
) -> Verdict:
    """What would become of a URL that the run has not seen."""
    place = place_of(story.run["id"], story.run["spider"], database)
    name = story.run["id"]
    if story.problem:
        answer = f"{name} cannot have it: {story.problem}"
        return Verdict((answer,), "give an absolute http:// or https:// URL")
    said = [f"{name} has not seen it: no page linked to it, and it was no start URL"]
    host = urlsplit(story.url).netloc
    if scope is not None and not _is_in(host, {*scope, *story.origins}):
        said.append(f"a link to it would be dropped: {host} is out of scope ({_scope(scope)})")
    else:
        said.append("a link to it would be queued")
    said += _robots_says(story.robots) or [
        f"whether robots.txt allows it is not known: {name} has not asked {host} for it"
    ]
    commands = [command("fetch", story.url)]
    if story.elsewhere:
        said.append(f"seen by {', '.join(story.elsewhere[:3])}")
        other = story.elsewhere[0]
        there = place_of(other, other.rpartition("-")[0], database)
        commands.insert(0, command("why", story.url, *there))
    elif story.near:
        commands.insert(0, command("why", story.near[0]["url"], *place))
    return Verdict(tuple(said), commands=tuple(commands))


def _is_in(host: str, scope: Collection[str]) -> bool:
    bare = host.partition(":")[0]
    return host in scope or any(bare == one or bare.endswith(f".{one}") for one in scope)


# -- words --------------------------------------------------------------------------------


def _scope(scope: Collection[str] | None) -> str:
    if scope is None:
        return "its spider's allowed_domains, and the hosts of its start URLs"
    return f"allowed_domains: {', '.join(sorted(scope)) or 'none'}"


def _robots_says(robots: Record | None) -> list[str]:
    if robots is None:
        return []
    what = robots["error"] or f"{robots['status']}"
    return [f"{robots['url']} was fetched at {instant(robots['started_at'])}: {what}"]


def _until(at: float, now: float) -> str:
    if at <= now:
        return f"since {instant(at)} for its next try"
    return f"until {instant(at)} (in {duration(at - now)})"


def _last_problem(life: Life) -> str:
    for attempt in reversed(life.attempts):
        if attempt["error"] or attempt["status"]:
            return str(attempt["error"] or f"http-{attempt['status']}")
    return ""


def _hint(story: Story, request: Record, reason: str) -> str:
    """What the code advises, without what is being shown already."""
    spider = story.run["spider"]
    hint = advice(reason, url=request["url"], host=request["domain"], spider=spider)
    parts = [part for part in hint.split("; ") if not part.startswith("`crawler why ")]
    return "; ".join(parts)


def _meaning(reason: str) -> str:
    known = code_of(reason)
    return known.meaning if known else reason


def _again(story: Story, database: str) -> str:
    run = story.run
    is_over = run["state"] == "finished"
    return run_again(run["spider"], run["arguments"], database, resume=is_over)
