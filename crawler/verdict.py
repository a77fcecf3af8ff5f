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

from crawler.commands import command, place_of, run_again, target_of
from crawler.errors import advice, code_of, nearest
from crawler.wording import duration, plural

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from crawler.rows import Record
    from crawler.story import Life, Story

__all__ = ["Verdict", "instant", "judge", "unseen"]


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
    state = life.request["state"]
    if state == "queued":
        return _queued(story, life, database, now)
    if state == "sent":
        said = "it was sent, and no answer is stored: it is under way, or its process died"
        again = run_again(story.run, database)
        return Verdict((said,), "the same `crawler run` settles it", (again,))
    if state == "done":
        return _done(life, place)
    if state == "dropped":
        return _dropped(story, life, place, scope)
    return _failed(story, life, place)


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
    return Verdict(tuple(said), commands=(run_again(story.run, database),))


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


def _done(life: Life, place: Sequence[str]) -> Verdict:
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
    story: Story, life: Life, place: Sequence[str], scope: Collection[str] | None
) -> Verdict:
    request, reason = life.request, life.request["reason"] or ""
    if reason == "scope":
        rule = "its spider's allowed_domains, and the hosts of its start URLs"
        if scope is not None:
            rule = f"allowed_domains: {', '.join(sorted(scope)) or 'none'}"
        said = [f"it was not accepted: {request['domain']} is out of scope ({rule})"]
    elif reason == "robots":
        said = [f"{_origin(request['url'])}/robots.txt forbids it (robots.obey is on)"]
        if robots := life.robots:
            what = robots["error"] or robots["status"]
            said.append(f"{robots['url']} was fetched at {instant(robots['started_at'])}: {what}")
    else:
        said = [f"it was refused: {_meaning(reason)}"]
    return Verdict(tuple(said), _hint(story, request, place), _queue_again(request, place))


def _failed(story: Story, life: Life, place: Sequence[str]) -> Verdict:
    request, reason = life.request, life.request["reason"] or "failed"
    known = code_of(reason)
    said = f"it failed with {reason}: {_meaning(reason)}"
    if reason == "unknown":
        said = "it was sent, and the process died before its answer was stored"
    is_worth = known is None or known.is_worth_again
    again = _queue_again(request, place) if is_worth else ()
    return Verdict((said,), _hint(story, request, place), again)


# -- never seen ---------------------------------------------------------------------------


def unseen(story: Story, *, database: str) -> Verdict:
    """What is said of a URL that the run has not seen."""
    name = story.run["id"]
    said = f"{name} has not seen it: no page linked to it, and it was no start URL"
    place = place_of(name, story.run["spider"], database)
    best = nearest(story.url, (row["url"] for row in story.near))
    near = [command("why", best, *place)] if best else []
    return Verdict((said,), commands=(*near, command("fetch", story.url)))


# -- words --------------------------------------------------------------------------------


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _until(at: float, now: float) -> str:
    if at <= now:
        return f"since {instant(at)} for its next try"
    return f"until {instant(at)} (in {duration(at - now)})"


def _last_problem(life: Life) -> str:
    for attempt in reversed(life.attempts):
        if attempt["error"] or attempt["status"]:
            return str(attempt["error"] or f"http-{attempt['status']}")
    return ""


def _hint(story: Story, request: Record, place: Sequence[str]) -> str:
    return advice(
        request["reason"] or "",
        url=request["url"],
        host=request["domain"],
        spider=target_of(story.run),
        place=place,
        shown="why",
    )


def _queue_again(request: Record, place: Sequence[str]) -> tuple[str]:
    return (command("requeue", *place, "--where", f"id = {request['id']}"),)


def _meaning(reason: str) -> str:
    known = code_of(reason)
    return known.meaning if known else reason
