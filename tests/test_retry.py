"""Retry decisions: a table, Retry-After in both its forms, strategies as plain functions."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import CODES, FetchError, UsageError
from crawler.retry import Decision, Deliver, GiveUp, Requeue, Retry, retry_after_s

NOW = 1_700_000_000.0
REPEATABLE = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")


def of_status(status: int, method: str = "GET", attempt: int = 1, **more: object) -> Decision:
    policy = Retry()
    return policy.decide(method=method, attempt=attempt, now=NOW, status=status, **more)  # type: ignore[arg-type]


def of_error(code: str, method: str = "GET", attempt: int = 1) -> Decision:
    return Retry().decide(method=method, attempt=attempt, now=NOW, error=FetchError(code))


def is_domains(decision: Decision) -> bool:
    """The domain rests, and the request's attempts are untouched."""
    return (
        isinstance(decision, Requeue)
        and not decision.spent
        and decision.domain_for is not None
        and decision.at == NOW
    )


def is_requests(decision: Decision) -> bool:
    """The request waits, and has spent an attempt."""
    return isinstance(decision, Requeue) and decision.spent and decision.domain_for is None


# -- the table ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 206, 299])
def test_success_is_delivered(status: int) -> None:
    assert isinstance(of_status(status), Deliver)


@pytest.mark.parametrize("status", [404, 403, 429, 503, 304])
def test_statuses_that_were_asked_for_are_delivered(status: int) -> None:
    assert isinstance(of_status(status, deliver={status}), Deliver)


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504])
@pytest.mark.parametrize("method", REPEATABLE)
def test_transient_statuses_are_tried_again(status: int, method: str) -> None:
    assert is_requests(of_status(status, method))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 418, 501, 505, 304])
def test_other_statuses_are_given_up_by_their_code(status: int) -> None:
    decision = of_status(status)
    assert isinstance(decision, GiveUp)
    assert decision.code == f"http-{status}"
    assert str(status) in decision.message


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_too_many_requests_is_the_domains(method: str) -> None:
    assert is_domains(of_status(429, method))
    assert is_domains(of_status(429, method, attempt=50))


def test_unavailable_is_the_domains_when_it_says_until_when() -> None:
    assert is_domains(of_status(503, retry_after="7"))
    assert is_requests(of_status(503))


CODES_OF = {
    fault: sorted(code for code, its in CODES.items() if its.fault == fault)
    for fault in ("domain", "request", "permanent", "local")
}


@pytest.mark.parametrize("code", CODES_OF["domain"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unreachable_domain_spends_no_attempt(code: str, method: str) -> None:
    assert is_domains(of_error(code, method, attempt=50))


@pytest.mark.parametrize("code", CODES_OF["request"])
def test_a_broken_exchange_spends_an_attempt(code: str) -> None:
    assert is_requests(of_error(code))
    assert of_error(code, attempt=3) == GiveUp(code=code, message=CODES[code].meaning)


@pytest.mark.parametrize("code", CODES_OF["permanent"])
def test_what_would_end_the_same_way_is_given_up_at_once(code: str) -> None:
    assert isinstance(of_error(code), GiveUp)


@pytest.mark.parametrize("code", CODES_OF["local"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_our_own_shortage_charges_nobody(code: str, method: str) -> None:
    assert of_error(code, method, attempt=50) == Requeue(at=NOW + 1.0, spent=False)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_may_have_had_an_effect_is_not_sent_again(method: str) -> None:
    for code in CODES_OF["request"]:
        assert isinstance(of_error(code, method), GiveUp)
    for status in (408, 500, 502, 504):
        assert isinstance(of_status(status, method), GiveUp)
    assert is_requests(of_status(503, method))


def test_attempts_are_counted_with_the_first() -> None:
    assert is_requests(of_status(500, attempt=2))
    assert isinstance(of_status(500, attempt=3), GiveUp)
    once = Retry(attempts=1)
    assert isinstance(once.decide(method="GET", attempt=1, now=NOW, status=500), GiveUp)


def test_a_policy_names_its_own_statuses() -> None:
    policy = Retry(statuses={404})
    for status, kind in [(404, Requeue), (500, GiveUp), (429, GiveUp)]:
        decision = policy.decide(method="GET", attempt=1, now=NOW, status=status)
        assert isinstance(decision, kind)


def test_failures_of_the_domain_lengthen_its_rest_and_spend_nothing() -> None:
    policy = Retry(wait=tenacity.wait_incrementing(start=1, increment=1))
    domains = policy.decide(
        method="GET", attempt=1, failures=4, now=NOW, error=FetchError("connect-refused")
    )
    assert isinstance(domains, Requeue)
    assert domains.domain_for == 5.0
    requests = policy.decide(method="GET", attempt=1, failures=4, now=NOW, status=500)
    assert requests == Requeue(at=NOW + 1.0, spent=True)


# -- Retry-After ---------------------------------------------------------------------------

SEVEN = format_datetime(datetime.fromtimestamp(NOW + 7, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        (SEVEN, 7.0),
        (SEVEN.replace("GMT", "-0000"), 7.0),
        (datetime.fromtimestamp(NOW + 7, UTC).strftime("%a %b %d %H:%M:%S %Y"), 7.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("9" * 400, 1e11),
        (None, None),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Wed, 99 Foo 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds


def test_a_date_without_a_zone_does_not_depend_on_where_we_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert retry_after_s(SEVEN.replace(" GMT", ""), NOW) == 7.0
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(max_size=40), st.floats(0, 4e9))
def test_any_retry_after_is_none_or_not_negative(value: str, now: float) -> None:
    seconds = retry_after_s(value, now)
    assert seconds is None or seconds >= 0.0


def test_a_retry_after_outweighs_the_own_wait_up_to_its_bound() -> None:
    policy = Retry(wait=0.0, max_retry_after=60.0)
    for value, rest in [("30", 30.0), ("3600", 60.0), ("0", 0.0)]:
        decision = policy.decide(method="GET", attempt=1, now=NOW, status=429, retry_after=value)
        assert isinstance(decision, Requeue)
        assert decision.domain_for == rest


def test_a_retry_after_of_a_500_is_the_requests() -> None:
    assert Retry(wait=0.0).decide(
        method="GET", attempt=1, now=NOW, status=500, retry_after="9"
    ) == Requeue(at=NOW + 9.0, spent=True)


# -- strategies ------------------------------------------------------------------------------


def test_tenacity_strategies_take_the_place_of_the_numbers() -> None:
    policy = Retry(
        wait=tenacity.wait_chain(*(tenacity.wait_fixed(n) for n in (3, 5, 7))),
        stop=tenacity.stop_after_attempt(5),
    )
    waits = []
    for attempt in range(1, 5):
        decision = policy.decide(method="GET", attempt=attempt, now=NOW, status=500)
        assert isinstance(decision, Requeue)
        waits.append(decision.at - NOW)
    assert waits == [3.0, 5.0, 7.0, 7.0]
    assert isinstance(policy.decide(method="GET", attempt=5, now=NOW, status=500), GiveUp)


def test_a_stop_by_time_counts_from_the_first_attempt() -> None:
    policy = Retry(stop=tenacity.stop_after_delay(600))
    early = policy.decide(method="GET", attempt=9, now=NOW, first_at=NOW - 599, status=500)
    late = policy.decide(method="GET", attempt=9, now=NOW, first_at=NOW - 600, status=500)
    assert isinstance(early, Requeue)
    assert isinstance(late, GiveUp)


def test_a_strategy_may_look_at_the_error() -> None:
    seen = []

    def look(error: BaseException) -> float:
        seen.append(error)
        return 2.0

    policy = Retry(wait=tenacity.wait_exception(look))
    decision = policy.decide(method="GET", attempt=1, now=NOW, error=FetchError("reset"))
    assert decision == Requeue(at=NOW + 2.0, spent=True)
    assert isinstance(seen[0], FetchError)


@pytest.mark.parametrize(
    "values",
    [
        {"attempts": 0},
        {"wait": -1.0},
        {"wait": float("nan")},
        {"max_wait": -1.0},
        {"max_retry_after": -1.0},
    ],
)
def test_an_impossible_policy_is_refused_when_it_is_made(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        Retry(**values)  # type: ignore[arg-type]


# -- in general --------------------------------------------------------------------------------


@given(
    method=st.sampled_from([*REPEATABLE, "POST", "PATCH"]),
    attempt=st.integers(1, 5000),
    attempts=st.integers(1, 5),
    wait=st.floats(0, 1e6),
    max_wait=st.floats(0, 1e6),
    outcome=st.one_of(st.integers(100, 599), st.sampled_from(sorted(CODES))),
    retry_after=st.none() | st.integers(0, 10**12).map(str),
)
def test_nothing_is_requeued_before_now_nor_after_its_attempts(
    method: str,
    attempt: int,
    attempts: int,
    wait: float,
    max_wait: float,
    outcome: int | str,
    retry_after: str | None,
) -> None:
    decision = Retry(attempts=attempts, wait=wait, max_wait=max_wait).decide(
        method=method,
        attempt=attempt,
        now=NOW,
        status=outcome if isinstance(outcome, int) else None,
        error=FetchError(outcome) if isinstance(outcome, str) else None,
        retry_after=retry_after,
    )
    if isinstance(decision, Requeue):
        assert decision.at >= NOW
        assert decision.at - NOW <= max(max_wait, 3600.0, 1.0) + 1e-3
        assert decision.domain_for is None or 0 <= decision.domain_for <= max(max_wait, 3600.0)
        assert not decision.spent or attempt < attempts
    assert isinstance(decision, Deliver) == (isinstance(outcome, int) and 200 <= outcome < 300)


@pytest.mark.parametrize(
    "wrong", [{"attempts": "3"}, {"attempts": 0}, {"wait": "1"}, {"max_wait": None}]
)
def test_what_is_no_number_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Retry(**wrong)


def test_none_is_as_urllib3_allows_it() -> None:
    policy = Retry.from_urllib3(total=None, status_forcelist=None)
    assert policy.attempts == Retry().attempts
    assert set(policy.statuses) == {429}
    assert Retry.from_urllib3(total=False).attempts == 1


@pytest.mark.parametrize(
    ("wrong", "wanted"),
    [
        ({"total": 2.5}, "a whole number, 0 or more, or None"),
        ({"total": "3"}, "a whole number, 0 or more, or None"),
        ({"total": -1}, "a whole number, 0 or more, or None"),
        ({"status_forcelist": [500, "x"]}, "status codes, like"),
        ({"status_forcelist": 500}, "status codes, like"),
        ({"backoff_factor": "0.3"}, "seconds, 0 or more"),
        ({"backoff_max": float("nan")}, "seconds, 0 or more"),
        ({"backoff_jitter": -1}, "seconds, 0 or more"),
    ],
)
def test_what_urllib3_would_not_take_is_refused_under_its_name_there(
    wrong: dict[str, Any], wanted: str
) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError) as caught:
        Retry.from_urllib3(**wrong)
    assert str(caught.value).startswith(f"Retry.from_urllib3({name}={value!r}): {wanted}")
