"""Commands to a running crawl: what they may be, and what then holds for a domain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler import DomainSettings, Settings
from crawler.errors import UsageError
from crawler.scheduler import Aside, Fetch, FetchAside
from crawler.steering import Command, encode, is_action, parse, read_action
from crawler.wishes import MOST_CHANGES, Change, Wishes
from storage import Line
from tests.scheduling import a_scheduler, fetched, pop_all, row

# ── what a command may be ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("word", "domain", "command"),
    [
        ("pause", None, Command(action="pause")),
        ("resume", "a.test", Command(action="resume", domain="a.test")),
        ("stop", None, Command(action="stop")),
        ("delay=2", None, Command(action="delay", value=2.0)),
        ("delay=1m", "*.test", Command(action="delay", value=60.0, domain="*.test")),
        ("delay=auto", None, Command(action="delay", value="auto")),
        ("concurrency=4", None, Command(action="concurrency", value=4)),
        ("domain.delay=0", None, Command(action="delay", value=0.0)),
        ('domains."a.test".delay=2', None, Command(action="delay", value=2.0, domain="a.test")),
        ("domains.a.test.concurrency=3", "a.test", read_action("concurrency=3", domain="a.test")),
    ],
)
def test_words_become_commands_and_come_back_from_their_line(
    word: str, domain: str | None, command: Command
) -> None:
    made = read_action(word, domain=domain)
    assert made == command
    assert parse(Line(1, encode(made))) == made
    assert is_action(word)


@pytest.mark.parametrize(
    ("word", "domain", "said", "hint"),
    [
        ("pauze", None, "unknown action `pauze`", "did you mean `pause`?"),
        ("delya=2", None, "unknown action `delya`", "did you mean `delay`?"),
        ("launch", None, "unknown action `launch`", "crawler set pause"),
        ("delay", None, "`delay` needs a value", "crawler set delay=2"),
        ("domain.concurrency", None, "needs a value", "domain.concurrency=4"),
        ("pause=now", None, "`pause` takes no value", "crawler set pause"),
        ("delay=soon", None, "delay", None),
        ("delay=-1", None, "delay", None),
        ("delay=inf", None, "delay", None),
        ("concurrency=0", None, "concurrency", None),
        ("concurrency=2.5", None, "concurrency", None),
        ("stop", "a.test", "a run stops as a whole", "crawler set stop"),
        ("domain.dealy=2", None, "unknown setting", "domain.delay"),
        ("pool.clients=3", None, "`pool.clients` cannot be changed", "-s pool.clients"),
        ("domain.probes=3", None, "cannot be changed", "-s domain.probes"),
        ('domains."a.test".delay=2', "b.test", "another domain", None),
    ],
)
def test_what_is_no_command_is_told_with_the_right_word(
    word: str, domain: str | None, said: str, hint: str | None
) -> None:
    with pytest.raises(UsageError) as refused:
        read_action(word, domain=domain)
    assert said in str(refused.value)
    if hint is not None:
        assert hint in (refused.value.hint or "")


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"stop",
        b'{"action": "pa',
        b"\xff\xfe",
        b"[]",
        b'{"action": "explode"}',
        b'{"action": "delay"}',
        b'{"action": "delay", "value": -1}',
        b'{"action": "delay", "value": "fast"}',
        b'{"action": "concurrency", "value": 2.5}',
        b'{"action": "concurrency", "value": "auto"}',
        b'{"action": "pause", "value": 1}',
        b'{"action": "stop", "domain": "a.test"}',
        b'{"action": "pause", "since": 4}',
        b'{"action": "pause", "run": ""}',
    ],
)
def test_a_line_that_is_no_command_is_an_answer(data: bytes | None) -> None:
    found = parse(Line(1, data))
    assert isinstance(found, str)
    assert found


@given(st.binary(max_size=200))
def test_no_line_breaks_anything(data: bytes) -> None:
    assert isinstance(parse(Line(1, data)), str | Command)


# ── what holds for a domain then ─────────────────────────────────────────────────────────


def test_auto_gives_a_domain_the_pace_that_was_learned_back() -> None:
    wishes = Wishes(Settings(domain=DomainSettings(delay=9)), {}, ())
    pace = wishes.pace_for("shop.example")
    pace.started(100.0)
    pace.answered_in(0.4)
    assert (pace.delay, pace.next_at) == (9, 109)
    change = Change("delay", "*.example", None)
    for value, delay in ((1.0, 1.0), ("auto", 0.8), (0.0, 0.0)):
        assert wishes.change(change, value)
        pace.adapt(wishes.pace_for("shop.example"))
        assert (pace.delay, pace.next_at) == pytest.approx((delay, 100 + delay))
    pace.rest(100.0, 60.0)
    wishes.change(change, 2.0)
    pace.adapt(wishes.pace_for("shop.example"))
    assert pace.next_at == 160
    assert wishes.pace_for("other.test").delay == 9


def test_changes_are_bounded_and_one_for_all_ends_those_for_some() -> None:
    wishes = Wishes(Settings(), {}, ())
    for n in range(MOST_CHANGES):
        assert wishes.change(Change("delay", f"h{n}.test", None), 3.0)
    assert not wishes.change(Change("delay", "one.more.test", None), 3.0)
    assert wishes.change(Change("delay", None, None), 4.0)
    assert wishes.stats() == {"delay": 1}
    assert wishes.pace_for("h7.test").delay == 4


def test_a_pause_is_over_when_all_that_it_meant_may_go_on() -> None:
    wishes = Wishes(Settings(), {}, ())
    for name in ("a.x.test", "b.x.test", "c.test"):
        wishes.change(Change("paused", name, None), True)
    wishes.change(Change("paused", "*.x.test", None), False)
    assert [wishes.is_paused(name) for name in ("a.x.test", "c.test")] == [False, True]
    wishes.change(Change("paused", "c.test", None), False)
    assert (wishes.has_paused, wishes.is_paused("c.test")) == (False, False)
    wishes.change(Change("paused", "*.test", None), True)
    wishes.change(Change("paused", "a.test", None), False)
    assert [wishes.is_paused(name) for name in ("a.test", "b.test")] == [False, True]
    wishes.change(Change("paused", None, None), False)
    assert not wishes.has_paused
    assert wishes.stats() == {}


# ── what a paused run's scheduler does ───────────────────────────────────────────────────


def test_asides_of_a_paused_run_wait_but_redirects_of_robots_txt_do_not() -> None:
    scheduler = a_scheduler("a.test")
    for obeys in (True, False):
        scheduler.ask(Aside("a.test", f"http://a.test/{obeys}", 1, obeys, obeys), 0.0)
    scheduler.pause(1)
    scheduler.ask(Aside("a.test", "http://a.test/late", 1, "late", True), 0.0)
    scheduler.offer(row(1, "a.test"), 0.0)
    assert [_order(action) for action in pop_all(scheduler)] == [False]
    (domain,) = scheduler.domains()
    scheduler.release(domain, 0.0)
    scheduler.proceed(1, 0.0)
    seen = []
    while actions := pop_all(scheduler):
        seen += [_order(action) for action in actions]
        for _ in actions:
            scheduler.release(domain, 0.0)
    assert seen == [True, "late", 1]


def test_a_paused_domain_has_nothing_to_start_and_no_place_to_wait_for() -> None:
    scheduler = a_scheduler("a.test", "b.test")
    for name in ("a.test", "b.test"):
        scheduler.offer(row(hash(name) % 99 + 1, name), 0.0)
    domain = scheduler.known("a.test")
    assert domain is not None
    domain.pace.is_paused = True
    scheduler.repaced(domain, 0.0)
    assert [fetched(action).domain for action in pop_all(scheduler)] == ["b.test"]
    assert not scheduler.lacks_room
    domain.pace.is_paused = False
    scheduler.repaced(domain, 0.0)
    assert [fetched(action).domain for action in pop_all(scheduler)] == ["a.test"]
    assert scheduler.known("c.test") is None


def _order(action: object) -> object:
    if isinstance(action, FetchAside):
        return action.aside.order
    assert isinstance(action, Fetch)
    return action.ready.row.id
