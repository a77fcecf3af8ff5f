"""Sessions as views get them, made by hand."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from crawler.live import DomainLive, Live, RunLive

RUN = RunLive(
    run="quotes-7",
    spider="quotes",
    state="running",
    seconds=4_360,
    pages=40_210,
    pages_before=8_000,
    items=41_877,
    errors=3,
    failed=312,
    retries=540,
    waiting=38,
    queued=12_904,
    rate=11.2,
    item_rate=9.8,
    net=-6.1,
    spark=(2, 4, 5, 8, 9, 11, 10, 12, 11, 8, 3, 11.2),
    ends_in_s=2_100,
    ends_by="shop-a.example, 33m 00s at its delay of 1 s",
)
API = DomainLive(
    domain="api.example",
    state="throttled",
    wait_s=42.0,
    queued=514,
    concurrency=2,
    delay=8.0,
    requests=90,
    p50_s=0.21,
    p95_s=0.9,
    s2xx=64,
    s4xx=26,
    problem="http-429",
    problem_count=24,
    problem_text="Retry-After: 60",
)
OLD = DomainLive(
    domain="old.example:8080",
    state="unreachable",
    wait_s=95.0,
    queued=96,
    requests=3,
    errors=3,
    problem="connect-refused",
    problem_count=3,
    problem_text="192.0.2.9:8080 refused the connection",
)
SHOP = DomainLive(
    domain="shop-a.example",
    state="waiting",
    wait_s=0.6,
    queued=1_980,
    active=1,
    concurrency=2,
    requests=1_000,
    rate=1.0,
    p50_s=0.14,
    p95_s=0.31,
    s2xx=980,
    s3xx=11,
    s4xx=9,
)
NEWS = DomainLive(
    domain="news.example",
    state="ok",
    queued=8_410,
    active=4,
    concurrency=4,
    requests=5_000,
    rate=6.9,
    p50_s=0.092,
    p95_s=0.28,
    s2xx=4_989,
    s3xx=11,
)
LIVE = Live(
    at=1_700_000_000.0,
    pid=4_121,
    database="shop.db",
    runs=(RUN,),
    domains=(API, OLD, SHOP, NEWS),
    domains_total=62,
    states={"ok": 52, "waiting": 5, "throttled": 1, "unreachable": 1, "robots": 3},
    on_wire=9,
    concurrency=256,
    clients=64,
    clients_limit=200,
    open_connections=71,
    idle_connections=52,
    sockets_limit=1_024,
    reuse=0.974,
    evictions=40,
    evictions_per_minute=3.1,
    descriptors=143,
    descriptors_limit=1_024,
    memory=212 << 20,
    database_bytes=389 << 20,
    behind_s=0.4,
    unfinished=12,
    cpu=0.61,
)


def live(*domains: DomainLive, run: dict[str, Any] | None = None, **changes: Any) -> Live:
    """A session with these domains (none: the usual ones) and changed fields."""
    given: dict[str, Any] = {"runs": (structs.replace(RUN, **run),)} if run else {}
    if domains:
        given |= {"domains": domains, "domains_total": len(domains)}
        given["states"] = {domain.state: 1 for domain in domains}
    return structs.replace(LIVE, **{**given, **changes})
