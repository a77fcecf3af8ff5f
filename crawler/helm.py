"""A session's side of the files beside its database: it obeys commands, and is seen.

Owns: what each command does to runs, domains and paces; the last answers; when the files
are read and written. Does not own: the commands' form (`steering`), what holds for a
domain then (`wishes`), the figures (`gauges`).

Invariants: every line of the control file gets one answer, in its order; a command that
cannot be carried out changes nothing; what is on the wire is never touched; a stopped run
is not paused any more.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from crawler.errors import nearest
from crawler.live import Answered, encode
from crawler.settings import matches
from crawler.steering import Command, parse
from crawler.wishes import MOST_CHANGES, Change
from crawler.wording import plural, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from crawler.live import Live
    from crawler.run import Crawl
    from crawler.scheduler import Domain, Scheduler
    from crawler.wire import Wire
    from crawler.wishes import Wishes
    from storage import Beside, Line

__all__ = ["KEPT_ANSWERS", "Helm"]

log = logging.getLogger("crawler")

KEPT_ANSWERS = 100
"""Answers shown, so that as many commands of one second find theirs."""


class Refused(Exception):
    """A command that cannot be carried out; the text says why."""


class Helm:
    """Steers one session; `beside` None: nobody else can.

    `sockets` and `requests` are what all domains together may have at once;
    `stop(crawl, reason)` stops a run; `woke` is called when something may have become
    possible.
    """

    def __init__(
        self,
        beside: Beside | None,
        crawls: Mapping[int, Crawl],
        scheduler: Scheduler,
        wishes: Wishes,
        wire: Wire,
        *,
        sockets: int,
        requests: int,
        stop: Callable[[Crawl, str], None],
        woke: Callable[[], None],
    ) -> None:
        self._beside = beside
        self._crawls = crawls
        self._scheduler = scheduler
        self._wishes = wishes
        self._wire = wire
        self._stop = stop
        self._most = min((sockets, "pool.sockets"), (requests, "concurrency"))
        self._woke = woke
        self._is_shown = True
        """The live file could be written the last time."""
        self.answers: deque[Answered] = deque(maxlen=KEPT_ANSWERS)

    def __repr__(self) -> str:
        return f"<Helm {len(self.answers)} answers, {self._wishes!r}>"

    def poll(self) -> None:
        """Carry out what has come since the last call."""
        for line in self._beside.poll() if self._beside is not None else ():
            self.answers.append(self._answer(line))

    def show(self, live: Callable[[], Live]) -> None:
        """Write the live file. That it cannot be is said once, and the crawl goes on."""
        if self._beside is None:
            return
        try:
            self._beside.show(encode(live()))
            self._is_shown = True
        except (OSError, ValueError) as error:  # of a name that is no text, as of a full disk
            if self._is_shown:
                log.warning("`crawler status` cannot see this crawl: %s", error)
            self._is_shown = False

    def close(self) -> None:
        """Take both files away."""
        if self._beside is not None:
            self._beside.close()

    def obey(self, command: Command) -> str:
        """Carry out a command; what was done. Raises Refused when it cannot be."""
        crawls = self._meant(command)
        if command.action in ("delay", "concurrency"):
            return self._change(command)
        if command.domain is not None:
            return self._pause_domain(command, crawls)
        if command.action == "stop":
            for crawl in crawls:
                self._stop(crawl, "stopped")
        else:
            crawls = [crawl for crawl in crawls if crawl.stopping is None]
            self._pause_runs(command, crawls)
        done = {"pause": "paused", "resume": "goes on", "stop": "stopping"}[command.action]
        return f"{', '.join(crawl.row.name for crawl in crawls)} {done}"

    def changed(self) -> None:
        """A run has begun or ended: every pace keeps to what holds now."""
        self._wishes.forget()
        self._refit(self._scheduler.domains())

    def _refit(self, domains: Iterable[Domain]) -> None:
        now = self._wire.clock()
        for domain in domains:
            domain.pace.adapt(self._wishes.pace_for(domain.name))
            self._scheduler.repaced(domain, now)
        self._woke()

    def proceed(self, crawl: Crawl) -> None:
        """End a run's pause, if it has one."""
        if crawl.is_paused:
            crawl.is_paused = False
            self._wire.forget_shortage()
            self._scheduler.proceed(crawl.id, self._wire.clock())

    # -- inside -----------------------------------------------------------------------------

    def _answer(self, line: Line) -> Answered:
        command = parse(line)
        try:
            if isinstance(command, str):
                raise Refused(command)
            text, is_done = f"{command}: {self.obey(command)}", True
        except Refused as refusal:
            what = "" if isinstance(command, str) else f"{command}: "
            text, is_done = f"{what}{refusal}", False
        came = "done" if is_done else "refused"
        log.info("command %d %s: %s", line.number, came, printable(text))
        return Answered(number=line.number, is_done=is_done, text=text)

    def _meant(self, command: Command) -> list[Crawl]:
        """The runs that a command is about."""
        crawls = [crawl for crawl in self._crawls.values() if not crawl.is_ending]
        named = [crawl for crawl in crawls if command.run in (None, crawl.row.name)]
        if not named:
            running = ", ".join(crawl.row.name for crawl in crawls)
            if not running:
                raise Refused("no run is running here")
            raise Refused(f"{command.run} is not running here (running: {running})")
        return named

    def _pause_runs(self, command: Command, crawls: list[Crawl]) -> None:
        """Pause runs, or let them go on: then no domain is paused either, where all may."""
        if not crawls:
            raise Refused(f"{command.run or 'the crawl'} is being stopped")
        if command.action == "resume" and command.run is None:
            self._wishes.change(Change("paused", None, None), False)
            self._refit(self._scheduler.domains())
        for crawl in crawls:
            if command.action == "resume":
                self.proceed(crawl)
            elif not crawl.is_paused:
                crawl.is_paused = True
                self._scheduler.pause(crawl.id)
        self._woke()

    def _pause_domain(self, command: Command, crawls: list[Crawl]) -> str:
        if command.run is not None and len(crawls) < len(self._crawls):
            raise Refused("a domain is paused for all runs together: name none")
        is_paused = command.action == "pause"
        self._hold(Change("paused", command.domain, None), is_paused)
        done = "paused" if is_paused else "going on"
        return f"{done}, {self._refitted(command)}"

    def _change(self, command: Command) -> str:
        if command.action == "concurrency":
            most, setting = self._most
            if isinstance(command.value, float) and command.value > most:
                raise Refused(f"{setting} allows {most} at once, over all domains")
        self._hold(Change(command.action, command.domain, command.run), command.setting)
        return self._refitted(command)

    def _hold(self, change: Change, value: object) -> None:
        if not self._wishes.change(change, value):
            raise Refused(f"{MOST_CHANGES:,} changes hold already")

    def _refitted(self, command: Command) -> str:
        """Let it hold, and say for whom it does."""
        met = list(self._scheduler.domains())
        means = [d for d in met if command.domain is None or matches(command.domain, d.name)]
        self._refit(means)
        if not means:
            like = nearest(command.domain or "", [domain.name for domain in met])
            hint = f"; did you mean {like}?" if like else ""
            return f"no such domain was met yet, it holds from then on{hint}"
        stricter = next((d for d in means if _is_stricter(d, command)), None)
        beside = f"; {stricter.name} keeps {_kept(stricter, command)}" if stricter else ""
        return f"holds for {means[0].name if len(means) == 1 else plural(len(means), 'domain')}" + (
            beside
        )


def _is_stricter(domain: Domain, command: Command) -> bool:
    """Another run, or the domain's robots.txt, wants more than the command grants."""
    value = command.value
    if not isinstance(value, float):
        return False
    if command.action == "delay":
        return domain.pace.delay > value
    return domain.pace.limit < value


def _kept(domain: Domain, command: Command) -> str:
    pace = domain.pace
    if command.action == "concurrency":
        return f"{pace.limit}, as another run asks"
    by_robots = pace.floor_s >= pace.delay
    return f"{pace.delay:g} s, as {'its robots.txt' if by_robots else 'another run'} asks"
