"""What the doctor finds out about one host: its addresses, and one request through the pool.

Owns: the request for robots.txt, which anybody may ask for, and its verdicts. Does not own:
connections (`pool`), which proxy and certificates the settings want (`access`).

Invariants: one request and no redirect; whatever happens is a verdict.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

from crawler.about import user_agent
from crawler.access import Access, check, open_clients
from crawler.checks import Verdict
from crawler.crawling import run_loop
from crawler.errors import FetchError, UsageError
from crawler.pool import Deadlines
from crawler.urls import canonicalise
from crawler.wording import duration

if TYPE_CHECKING:
    from crawler.pool import Answer, ClientCache
    from crawler.settings import Settings

__all__ = ["about_host"]

SHOWN = 4
"""Addresses that are named."""
ADVICE = {
    "dns": "is the name right? -s resolve.HOST=ADDRESS gives it one",
    "connect-refused": "nothing listens on that port: is the server up?",
    "connect-timeout": "the host is down, or a firewall lets nothing through",
    "connect": "is there a network? ip route shows the ways out",
    "tls": "-s tls.ca_file=FILE names other authorities to trust",
    "tls-timeout": "does it speak TLS there? else: crawler doctor http://HOST",
    "head-timeout": "it takes connections and does not answer: ask again later",
    "proxy": "is the proxy up? crawler config domain.proxies shows it",
    "protocol": "is it an HTTP port, and http or https the right one?",
}
"""What to do about a failure, by its code; the message speaks for any other one."""


def about_host(url: str, settings: Settings) -> list[Verdict]:
    """Addresses, connection and answer of the host of a URL, which is asked for once."""
    try:
        check(settings, settings)
    except UsageError as error:
        return [Verdict("fail", "host", str(error), error.hint or "crawler config --check")]
    verdicts: list[Verdict] = run_loop(_ask(url, settings))
    return verdicts


async def _ask(url: str, settings: Settings) -> list[Verdict]:
    domain = canonicalise(url).domain
    clients = open_clients(settings, clock=asyncio.get_running_loop().time)
    wish = settings.for_domain(domain)
    key = Access(settings, lambda _: [wish]).key(domain)
    try:
        found = [] if key.proxy is not None else [await _addresses(clients, domain)]
        if any(verdict.state == "fail" for verdict in found):
            return found
        lease = clients.lease(key, 1)
        try:
            timeout = settings.timeout
            answer = await lease.client.exchange(
                "GET",
                url,
                headers=[("user-agent", user_agent(settings.user_agent, settings.contact))],
                deadlines=Deadlines(
                    connect=timeout.connect, tls=timeout.tls, head=timeout.head, total=timeout.total
                ),
            )
            try:
                return [*found, _connection(answer), _answered(answer, url)]
            finally:
                await answer.aclose()
        except FetchError as error:
            return [*found, _refused(error)]
        finally:
            lease.release()
    finally:
        await clients.aclose()


async def _addresses(clients: ClientCache, domain: str) -> Verdict:
    host, colon, port = domain.rpartition(":")
    name = host.strip("[]") if colon and port.isdigit() else domain.strip("[]")
    try:
        found = await clients.dialer.resolver.resolve(name, 443)
    except FetchError as error:
        return _refused(error)
    except OSError as error:
        reason = error.strerror or str(error)
        return Verdict("fail", "addresses", f"{name}: {reason}", ADVICE["dns"])
    literals = [str(address.sockaddr[0]) for address in found]
    private = [each for each in literals if not ip_address(each.partition("%")[0]).is_global]
    more = f" and {len(literals) - SHOWN} more" if len(literals) > SHOWN else ""
    kind = "all private" if len(private) == len(literals) else f"{len(private)} private"
    told = f"{', '.join(literals[:SHOWN])}{more} ({kind if private else 'public'})"
    if private and len(private) < len(literals):
        advice = "a name with public and private addresses is a mistake, or a trap"
        return Verdict("warn", "addresses", told, advice)
    return Verdict("ok", "addresses", told)


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


def _refused(error: FetchError) -> Verdict:
    return Verdict("fail", "connection", str(error), ADVICE.get(error.code, "see the message"))
