"""What to do with an outcome: deliver it, requeue the request at T, or give up. Pure.

A retry is a decision, not a sleep: the tenacity strategies are consulted as plain
functions of an attempt and answer with a number; whoever asked writes that number into a
row. Nothing here waits, and no clock is read: `now` is handed in (wall clock, seconds).

Invariants: what is the domain's fault never spends an attempt of the request; a request
that may have had an effect (RFC 9110 §9.2.2: not idempotent) is not sent again unless it
is known not to have been processed; a decision depends on its arguments and, for the
jitter, on `random` alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import tenacity
from tenacity.wait import wait_base

from crawler.errors import FetchError, UsageError
from crawler.options import are_statuses

if TYPE_CHECKING:
    from collections.abc import Collection

    from tenacity.stop import stop_base

__all__ = ["DELIVER", "Decision", "Deliver", "GiveUp", "Requeue", "Retry", "retry_after_s"]

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
UNPROCESSED: Final = frozenset({429, 503})
"""Statuses by which a server says that it did not act on the request."""
TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a request is tried again, and how long after.

    `wait` and `stop` also take tenacity strategies (`tenacity.wait_chain(...)`,
    `tenacity.stop_after_delay(600)`), which replace the numbers.
    """

    attempts: int = 3
    """Attempts in all, the first one included; 1: never again."""
    wait: float | wait_base = 1.0
    """Seconds; the first wait is drawn from 0 to this, and the bound doubles each time."""
    max_wait: float = 60.0
    """Seconds; bound of the doubling."""
    max_retry_after: float = 3600.0
    """Seconds; a longer Retry-After is cut to this."""
    statuses: Collection[int] = TRANSIENT
    """Statuses that are tried again."""
    stop: stop_base | None = None
    """None: stop after `attempts`."""

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise UsageError(
                f"Retry(attempts={self.attempts!r}): at least 1, the first attempt",
                hint="retry = Retry(attempts=1) tries nothing again",
            )
        for name in ("wait", "max_wait", "max_retry_after"):
            value = getattr(self, name)
            is_strategy = name == "wait" and isinstance(value, wait_base)
            if not is_strategy and not (isinstance(value, int | float) and value >= 0):
                raise UsageError(
                    f"Retry({name}={value!r}): seconds, 0 or more",
                    hint="retry = Retry(wait=1.0, max_wait=60.0, max_retry_after=3600.0)",
                )

    @classmethod
    def from_urllib3(
        cls,
        total: int | None = 10,
        backoff_factor: float = 0.0,
        status_forcelist: Collection[int] | None = (),
        *,
        backoff_max: float = 120.0,
        backoff_jitter: float = 0.0,
    ) -> Retry:
        """The policy that urllib3's Retry has under these names, for a spider.

        `total` counts retries: one attempt more in all; None: as many attempts as a plain
        Retry makes. `status_forcelist`: None is none. Seconds: none before the first retry,
        then `backoff_factor * 2 ** (n - 1)` before the nth, at most `backoff_max`,
        with up to `backoff_jitter` added. 429 is tried again, listed or not. Raises
        UsageError for numbers below 0, and for what is no number and no status.
        """
        told = "Retry.from_urllib3({}={!r}): {}"
        hint = "Retry.from_urllib3(total=3, backoff_factor=0.5, status_forcelist=(500, 503))"
        if total is not None and not (isinstance(total, int) and total >= 0):
            wanted = "a whole number, 0 or more, or None"
            raise UsageError(told.format("total", total, wanted), hint=hint)
        seconds = {
            "backoff_factor": backoff_factor,
            "backoff_max": backoff_max,
            "backoff_jitter": backoff_jitter,
        }
        for name, value in seconds.items():
            if not isinstance(value, int | float) or not value >= 0:
                raise UsageError(told.format(name, value, "seconds, 0 or more"), hint=hint)
        listed = () if status_forcelist is None else status_forcelist
        if not are_statuses(listed):
            wanted = "status codes, like (500, 503), or None"
            raise UsageError(told.format("status_forcelist", listed, wanted), hint=hint)
        later = tenacity.wait_exponential(backoff_factor, backoff_max)
        jitter = tenacity.wait_random(0, backoff_jitter)
        return cls(
            attempts=cls().attempts if total is None else total + 1,
            wait=tenacity.wait_chain(tenacity.wait_none(), later + jitter),
            statuses=frozenset((429, *listed)),
        )

    def wait_s(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the next attempt, by the strategy."""
        if isinstance(self.wait, wait_base):
            return max(0.0, float(self.wait(state)))
        return float(tenacity.wait_random_exponential(self.wait, self.max_wait)(state))

    def rest_s(self, failures: int, now: float) -> float:
        """Seconds that a domain rests after this many failures in a row (from 1)."""
        return self.wait_s(_state(failures, now, None, FetchError("connect")))

    def decide(
        self,
        *,
        method: str,
        attempt: int,
        now: float,
        failures: int = 0,
        first_at: float | None = None,
        status: int | None = None,
        retry_after: str | None = None,
        error: FetchError | None = None,
        deliver: Collection[int] = (),
    ) -> Decision:
        """Judge one outcome: a status, or an error.

        `attempt` counts the one just made (from 1); `failures` those of the domain in a
        row before this one, which lengthen the rest of the domain and nothing else;
        `deliver` names statuses that are delivered besides 2xx; `first_at` is when the
        first attempt was made, for strategies that look at the time spent (None: now).
        """
        if error is None and status is not None and (200 <= status < 300 or status in deliver):
            return DELIVER
        failure = error or FetchError(f"http-{status}", f"the server answered {status}")
        if failure.fault == "local":
            return Requeue(at=now + failure.pause_s, spent=False)
        asked = retry_after_s(retry_after, now)
        is_domains = self._is_charged_to_domain(failure, status, asked)
        counted = max(attempt, failures + 1) if is_domains else attempt
        state = _state(counted, now, first_at, failure)
        pause = self.wait_s(state)
        if asked is not None:
            pause = max(pause, min(asked, self.max_retry_after))
        if is_domains:
            return Requeue(at=now, spent=False, domain_for=pause)
        if not self._is_worth_trying(method, failure, status) or self._is_over(state):
            return GiveUp(code=failure.code, message=str(failure.args[0]))
        return Requeue(at=now + pause, spent=True)

    def _is_charged_to_domain(
        self, failure: FetchError, status: int | None, asked: float | None
    ) -> bool:
        if status is None:
            return failure.fault == "domain"
        return status in self.statuses and (status == 429 or (status == 503 and asked is not None))

    def _is_worth_trying(self, method: str, failure: FetchError, status: int | None) -> bool:
        if status is not None:
            again = status in self.statuses
            return again and (method in IDEMPOTENT or status in UNPROCESSED)
        return failure.fault == "request" and method in IDEMPOTENT

    def _is_over(self, state: tenacity.RetryCallState) -> bool:
        stop = self.stop or tenacity.stop_after_attempt(self.attempts)
        return bool(stop(state))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """The callback gets the page."""


DELIVER: Final = Deliver()


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeue:
    """Back into the queue."""

    at: float
    """Wall-clock instant before which it is not sent."""
    spent: bool
    """False: the attempt is not counted, it was not the request's fault."""
    domain_for: float | None = None
    """Seconds the whole domain rests; None: only this request waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Settled as failed, with the last error."""

    code: str
    message: str


Decision = Deliver | Requeue | GiveUp


class _Outcome:
    """What tenacity strategies read of an attempt, without a Future's locks."""

    __slots__ = ("_error", "failed")

    def __init__(self, error: FetchError) -> None:
        self.failed = True
        self._error = error

    def exception(self) -> FetchError:
        return self._error

    def result(self) -> Any:
        raise self._error


def _state(
    attempt: int, now: float, first_at: float | None, error: FetchError
) -> tenacity.RetryCallState:
    state = tenacity.RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = attempt
    state.start_time = now if first_at is None else first_at
    state.outcome_timestamp = now
    state.outcome = _Outcome(error)  # type: ignore[assignment]
    return state


def retry_after_s(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 §10.2.3: seconds or a date).

    None: no header, or one that says neither; a date that has passed is 0.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), math.inf if len(text) < 12 else 1e11)
    try:
        at = parsedate_to_datetime(text)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return None
