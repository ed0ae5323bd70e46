"""When a request is sent again, as a pure function. The rule behind it: no command ever runs twice."""

from __future__ import annotations

import enum
import random
from typing import Optional

LONGEST_WAIT = 30.0


class Safety(enum.Enum):
    """What a second sending of the same request would do."""

    REPEATABLE = "repeatable"
    """Nothing more than the first: reads, whole-file writes, deletes, creates with an idempotency key."""
    ONCE = "once"
    """Perhaps a second time the same: execs, stdin, signals, appends, moves."""


class Outcome(enum.Enum):
    """How a try ended, when it did not end well."""

    NOT_SENT = "not_sent"
    """No connection came about: the server has not seen the request."""
    UNKNOWN = "unknown"
    """The connection broke or a deadline passed after the request, or a part of it, was sent."""
    REFUSED = "refused"
    """The server said 429, or 503 with Retry-After: it looked at the request and did not begin."""
    GATEWAY = "gateway"
    """502, 503 or 504 without Retry-After: a proxy speaks; the server may have seen the request."""


def delay_before_retry(
    outcome: Outcome,
    safety: Safety,
    attempt: int,
    max_retries: int,
    retry_after: Optional[float] = None,
) -> Optional[float]:
    """Seconds to wait before try number `attempt + 1` (the first try is 0), or None to give up."""
    if attempt >= max_retries:
        return None
    if outcome in (Outcome.UNKNOWN, Outcome.GATEWAY) and safety is Safety.ONCE:
        return None
    if retry_after is not None:
        return retry_after if retry_after <= LONGEST_WAIT else None
    return backoff(attempt)


def backoff(attempt: int) -> float:
    """0.1 s doubling to at most 5 s, with up to a half taken off at random so that clients spread out."""
    full: float = min(5.0, 0.1 * 2.0 ** min(attempt, 16))
    return full * (1.0 - random.random() / 2)
