"""What the doctor finds out about one host: one request for its robots.txt, through the pool.

Owns: that request, which anybody may make, and its verdicts. Does not own: connections
(`pool`), which proxy and certificates the settings want (`access`).

Invariants: one request and no redirect; whatever happens is a verdict.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from crawler.about import user_agent
from crawler.access import Access, check, open_clients
from crawler.cli.findings import Verdict
from crawler.crawling import run_loop
from crawler.errors import FetchError, UsageError
from crawler.pool import Deadlines
from crawler.urls import canonicalise
from crawler.wording import duration

if TYPE_CHECKING:
    from crawler.pool import Answer
    from crawler.settings import Settings

__all__ = ["about_host"]

ADVICE = {
    "dns": "is the name right? the setting resolve gives it an address",
    "connect-refused": "nothing listens on that port: is the server up?",
    "connect-timeout": "the host is down, or a firewall lets nothing through",
    "connect": "is there a network? ip route shows the ways out",
    "tls": "the setting tls.ca_file names other authorities to trust",
    "tls-timeout": "does it speak TLS there? else: crawler doctor http://HOST",
    "head-timeout": "it takes connections and does not answer: ask again later",
    "proxy": "is the proxy up? crawler config domain.proxies shows it",
    "protocol": "is it an HTTP port, and http or https the right one?",
}
"""What to do about a failure, by its code; the message speaks for any other one."""


def about_host(url: str, settings: Settings) -> list[Verdict]:
    """Connection and answer of the host of a URL, which is asked for once."""
    try:
        check(settings, settings)
        verdicts: list[Verdict] = run_loop(_ask(url, settings))
    except UsageError as error:
        return [Verdict("fail", "host", str(error), error.hint or "crawler config --check")]
    except FetchError as error:
        advice = ADVICE.get(error.code, "see the message")
        return [Verdict("fail", "connection", str(error), advice)]
    return verdicts


async def _ask(url: str, settings: Settings) -> list[Verdict]:
    domain = canonicalise(url).domain
    clients = open_clients(settings, clock=asyncio.get_running_loop().time)
    wish = settings.for_domain(domain)
    timeout = settings.timeout
    try:
        lease = clients.lease(Access(settings, lambda _: [wish]).key(domain), 1)
        try:
            answer = await lease.client.exchange(
                "GET",
                url,
                headers=[("user-agent", user_agent(settings.user_agent, settings.contact))],
                deadlines=Deadlines(
                    connect=timeout.connect, tls=timeout.tls, head=timeout.head, total=timeout.total
                ),
            )
            await answer.aclose()
            return [_connection(answer), _answered(answer, url)]
        finally:
            lease.release()
    finally:
        await clients.aclose()


def _connection(answer: Answer) -> Verdict:
    info = answer.info
    told = [f"{duration(info.connect_s or 0.0)} to {info.peer}"]
    if info.dns_s is not None:
        told.append(f"{duration(info.dns_s)} of it for the name")
    told.append("no TLS" if info.tls_s is None else f"{duration(info.tls_s)} for TLS")
    return Verdict("ok", "connection", ", ".join(told))


def _answered(answer: Answer, url: str) -> Verdict:
    """The status of robots.txt, as the crawl would take it (RFC 9309 §2.3.1)."""
    told = f"{answer.info.http_version}, status {answer.status} for {url}"
    if answer.status == 429 or answer.status >= 500:
        advice = "nothing of the host is crawled until its robots.txt can be had"
        return Verdict("warn", "answer", told, advice)
    return Verdict("ok", "answer", told)
