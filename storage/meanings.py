"""What the public views and columns mean, in a sentence each, with units.

Owns: the sentences that docs/reference/schema.md is written from. Does not own: the views
(`schema`).

Invariants: every public view and every column of one has a sentence, and nothing else has
(a test reads both lists). A column that means the same in several views stands in `COLUMNS`
once; what differs stands in `OWN`, by view. Instants are seconds since 1970 (UTC),
durations are seconds, sizes are bytes; NULL is explained wherever it can come.
"""

from __future__ import annotations

__all__ = ["COLUMNS", "OWN", "PRIVATE", "ROWS", "meaning"]

ROWS = {
    "runs": "one crawl of one spider",
    "requests": "one URL of a run, whatever became of it",
    "fetches": "one attempt on the wire, robots.txt and `Spider.fetch` included",
    "domains": "one domain of a run, as it stands now",
    "v_runs": "one crawl with its sums",
    "v_domains": "one domain of a run with its sums",
    "v_errors": "one error code of one domain of a run, with the latest case",
    "v_problems": "one error as it came, with its request",
    "v_drops": "one reason for which URLs of a domain were refused",
    "v_queue": "one domain of a run that still has something queued",
    "v_pools": "the connections of one domain of a run",
    "v_slowest": "one domain of a run that answered, the slowest first",
    "v_latency": "answers of one domain whose first byte came within a time",
    "v_statuses": "one status that a domain of a run answered with",
    "v_phases": "one run: where the time of its requests went",
    "v_throughput": "one minute of a run",
}
"""View to what a row of it is."""

PRIVATE = {
    "_run": "Run that stored the item, e.g. `books-3`: `runs.id`.",
    "_request": "Request whose page gave it: `requests.id`.",
    "_ordinal": "Place among the items of its page, from 0.",
}
"""Columns that every item table has beside the item's own fields."""

COLUMNS = {
    "run": "Run, e.g. `books-3`: `runs.id`.",
    "domain": "Host name, with its port when that is not the scheme's default; the registrable"
    " domain under `domain.group = site`.",
    "spider": "Name of the spider.",
    "started_at": "When it began, seconds since 1970.",
    "queued": "Requests not settled; those under way and those that wait are included.",
    "waiting": "Queued requests that wait for an instant: a retry, or `not_before`.",
    "done": "Requests done, redirects included.",
    "redirected": "Of the done ones, those that were answered by a redirect.",
    "failed": "Requests given up.",
    "dropped": "URLs refused by a rule: scope or robots.txt.",
    "requests": "Attempts on the wire; one request may take several.",
    "retries": "Attempts after which the request was put back into the queue.",
    "errors": "Errors a person will want to read: failed requests and callbacks that raised.",
    "items": "Items stored.",
    "duplicates": "Links to URLs that the run had already; they are only counted.",
    "bytes_received": "Body bytes on the wire, before decoding.",
    "connections": "Most connections open at once, in one process.",
    "new_connections": "Attempts for which a connection was opened.",
    "reused_connections": "Attempts that found a connection open.",
    "reuse": "Share of `reused_connections` in both, 0 to 1.",
    "concurrency": "Requests that may be on the wire to the domain at once, as learned so far.",
    "delay": "Seconds between two starts, as learned or set; 0: no pause.",
    "next_at": "Instant before which nothing is sent to it, seconds since 1970; NULL: none.",
    "connect_s": "Seconds in which connections were opened: name, TCP and TLS together.",
    "ttfb_s": "Seconds from sending the request to the first byte of the answer.",
    "body_s": "Seconds from the first byte to the last one.",
    "total_s": "Seconds of the whole attempt, connecting included.",
    "wait_s": "Seconds from being ready to being sent: the pace of the domain, and its turn.",
    "mean_ttfb_s": "Mean seconds to the first byte; NULL: no answer came.",
    "replays": "Times a request was sent again because a kept-alive connection was dead.",
    "ended_by": "Why the last session ended: finished, limit, max-time, spider, stopped, signal,"
    " waiting, error, crash, requeue; NULL: it has not.",
    "message": "What was said of it.",
    "detail": "Its traceback, the spider's own frames; NULL: it has none.",
    "url": "URL of the request; NULL: of no request.",
    "code": "Stable code, see [errors.md](errors.md).",
    "count": "How many.",
}
"""Column to its meaning, wherever `OWN` has no other one."""

_RUN_STATE = (
    "running, waiting, interrupted, finished or failed; after a kill it says running until a crawl"
    " opens the file again (`crawler runs` tells them apart)."
)
_DOMAIN_STATE = (
    "ok; throttled: its last answers were 429, 503 or alike; unreachable: no answer comes."
)

OWN = {
    "runs": {
        "id": "`<spider>-<n>`, e.g. `books-3`.",
        "state": _RUN_STATE,
        "finished_at": "When it ended; NULL: it runs.",
        "seeded_at": "When `Spider.start()` had once ended; NULL: a resume iterates it again.",
        "arguments": "Spider arguments and given start URLs, JSON with sorted keys.",
        "settings": "Settings that differ from the defaults, JSON.",
        "code_hash": "SHA-256 of the spider's source.",
        "command": "What `crawler run` was given: spider or file, URLs, arguments, outputs,"
        " bounds, of -s the names alone, as JSON; NULL: begun in code.",
    },
    "requests": {
        "id": "Number, in the order of discovery.",
        "url": "Canonical URL.",
        "method": "HTTP method.",
        "state": "queued (also while it is on the wire), done, failed or dropped; sent: reserved"
        " for stores of several workers.",
        "reason": "Why it is in its state: an error code, redirected, redirected_known, robots,"
        " scope; NULL: delivered, or still queued.",
        "priority": "Higher goes first inside its domain.",
        "depth": "Links followed since a start URL; 0: a start URL.",
        "attempts": "Attempts that were charged to it; what is the domain's fault is not.",
        "not_before": "Instant before which it is not sent, seconds since 1970; NULL: any time.",
        "parent": "Request on whose page it was found: `requests.id`; NULL: a start URL.",
        "redirect_of": "Request whose redirect led here: `requests.id`; NULL: none.",
        "discovered_at": "When it was queued, seconds since 1970.",
        "finished_at": "When it was settled, seconds since 1970; NULL: it is queued.",
        "payload": "What it carries beside these columns (callback, arguments, headers, body),"
        " JSON; NULL: a plain GET for `parse`.",
    },
    "fetches": {
        "id": "Number, in the order of storing.",
        "request": "`requests.id`; NULL: robots.txt or `Spider.fetch`.",
        "url": "URL that was asked for.",
        "attempt": "Which attempt of its request it was, from 1.",
        "status": "HTTP status; NULL: no answer came.",
        "error": "Code of [errors.md](errors.md); NULL: an answer came, whatever its status.",
        "decision": "What followed: deliver, redirect, retry, give-up; robots: it was robots.txt.",
        "started_at": "When it was sent, seconds since 1970.",
        "dns_s": "Of `connect_s`, seconds for the name; NULL: nothing was looked up.",
        "connect_s": "Seconds to open the connection: name, TCP, TLS; NULL: none was opened.",
        "tls_s": "Of `connect_s`, seconds for the TLS handshake; NULL: there was none.",
        "ttfb_s": "Seconds from sending to the first byte of the answer; NULL: none came.",
        "total_s": "Seconds of the whole attempt, connecting included, `wait_s` not.",
        "bytes_received": "Body bytes on the wire, before decoding.",
        "reused": "1: on a connection that was open already; NULL: no connection was had.",
        "nth": "Which request on its connection it was, from 1; NULL: no connection was had.",
        "http_version": "e.g. HTTP/1.1; NULL: no answer came.",
        "peer": "Address of the other end, on the fetch that opened the connection; else NULL.",
        "proxy": "Proxy it went through, without credentials; NULL: none.",
        "generation": "Which client of its domain served it, from 1: counts up at evictions.",
    },
    "domains": {"state": _DOMAIN_STATE},
    "v_runs": {
        "id": "`runs.id`.",
        "state": _RUN_STATE,
        "seconds": "From its begin to its end, or to now; pauses between sessions included.",
        "pages": "Requests done, without redirects, and without pages whose callback failed.",
        "clients_peak": "Most clients open at once; NULL: not known yet.",
        "evictions": "Clients closed to make room for another domain's; NULL: not known yet.",
    },
    "v_domains": {
        "state": _DOMAIN_STATE,
        "s2xx": "Answers with a status of 200 to 299.",
        "s3xx": "Answers with a status of 300 to 399.",
        "s4xx": "Answers with a status of 400 to 499.",
        "s5xx": "Answers with a status of 500 to 599.",
    },
    "v_errors": {
        "last_at": "When the latest kept case came, seconds since 1970.",
    },
    "v_problems": {
        "id": "Number, in the order of coming.",
        "request": "`requests.id`; NULL: of no request.",
        "at": "When it came, seconds since 1970.",
        "state": "State of the request now; NULL: of no request.",
    },
    "v_drops": {
        "reason": "Rule that refused them: scope or robots.",
        "count": "How many, also beyond the 100,000 of a run that are kept as rows.",
    },
    "v_pools": {
        "clients": "Clients made for the domain, in one process.",
        "requests_per_connection": "Mean; NULL: no connection was opened.",
        "peer_closes": "Idle connections that the server closed.",
        "connect_failures": "Attempts that got no connection: name, refusal, time, TLS, address.",
        "mean_dns_s": "Mean seconds of a look-up, per new connection; NULL: there was none.",
        "mean_connect_s": "Mean seconds to open a connection; NULL: none was opened.",
        "mean_tls_s": "Mean seconds of a TLS handshake, per new connection; NULL: none was made.",
        "mean_wait_s": "Mean seconds a request waited for the pace and its turn.",
    },
    "v_statuses": {"status": "HTTP status.", "count": "Answers with it, of all attempts."},
    "v_latency": {
        "below_ms": "Milliseconds, a power of two: the first byte came before, and not before"
        " half of it.",
        "count": "How many answers.",
    },
    "v_slowest": {"mean_total_s": "Mean seconds of a whole attempt."},
    "v_throughput": {
        "minute_at": "Begin of the minute, seconds since 1970.",
        "pages": "Requests done in it, redirects included.",
        "errors": "Errors in it.",
    },
}
"""View to what its columns mean, where `COLUMNS` says something else or nothing."""


def meaning(view: str, column: str) -> str | None:
    """What a column of a view means; None: nobody has said it."""
    return OWN.get(view, {}).get(column) or COLUMNS.get(column)
