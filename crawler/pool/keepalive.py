"""How long an idle connection of one domain may live: what is configured, learned, hinted.

Owns: the response's Keep-Alive field (draft-thomson-hybi-http-timeout-01; the field is
that of RFC 2068 §19.7.1.1), the value learned from connections that turned out dead.
Does not own: connections, the clock, when they are closed (`expiry`). Pure.

Invariants: no answer is above the configured value; the learned value never falls below
1 second; a value proven wrong is halved, one proven right grows by a tenth, and only as
far as an idle time that was really survived bears it out.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NO_HINT", "Hint", "KeepAlive", "parse"]

FLOOR = 1.0
"""Seconds; what is learned never goes below."""
MARGIN = 1.0
"""Seconds by which we close before the server does: its clock started earlier."""
CAP = 86_400
"""Seconds, or requests: more than that says nothing a crawl could use."""
NEAR = 0.8
"""Share of the learned value that an idle time must reach to speak for more."""
GROWTH = 1.1


class Hint(NamedTuple):
    """What a server says of its idle connections."""

    timeout: float | None = None
    """Seconds until it closes an idle one; None: not said."""
    max: int | None = None
    """Requests a connection may carry; None: not said."""


NO_HINT = Hint()


def parse(value: bytes | str) -> Hint:
    """Read a Keep-Alive field, as in `timeout=5, max=100`.

    Parts that are malformed, negative or unknown are passed over, numbers are capped at
    86,400, of several the smallest counts.
    """
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, digits = part.partition("=")
        name = name.strip().lower()
        number = _number(digits)
        if number is not None and name in ("timeout", "max"):
            found[name] = min(number, found.get(name, CAP))
    return Hint(found.get("timeout"), found.get("max"))


class KeepAlive:
    """The keep-alive of one domain; kept outside its clients, for it survives them.

    `configured` is in seconds and bounds every answer; 0: no connection is used twice.
    """

    __slots__ = ("configured", "learned")

    def __init__(self, configured: float) -> None:
        if not configured >= 0:
            raise ValueError(f"a keep-alive of {configured} s is none; 0 turns it off")
        self.configured = configured
        self.learned = configured
        """Seconds; equal to `configured` until a connection turns out dead."""

    def __repr__(self) -> str:
        return f"<KeepAlive {self.learned:g} of {self.configured:g} s>"

    def for_answer(self, hint: Hint = NO_HINT) -> float:
        """Seconds the connection may idle after the answer that carried the hint.

        0: close it now. A `max` of 1 or less means no further request: the draft counts
        from the connection's first one, and a server that counts down closes after it.
        """
        if hint.max is not None and hint.max <= 1:
            return 0.0
        if hint.timeout is None:
            return self.learned
        return max(0.0, min(self.learned, hint.timeout - MARGIN))

    def stale(self, idle_for: float | None = None) -> None:
        """A reused connection was dead after that many seconds; None: not known."""
        lived = self.learned if idle_for is None else min(self.learned, idle_for)
        self.learned = min(self.configured, max(FLOOR, lived / 2))

    def answered_after(self, idle_for: float) -> None:
        """A connection was idle for that many seconds and still served."""
        if self.learned < self.configured and idle_for >= NEAR * self.learned:
            self.learned = min(self.configured, self.learned * GROWTH)


def _number(digits: str) -> int | None:
    digits = digits.strip().strip('"')
    if not (digits.isascii() and digits.isdigit()):
        return None
    return min(CAP, int(digits)) if len(digits) <= 18 else CAP
