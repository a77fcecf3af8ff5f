"""How a domain is reached: which client, through which proxy, from which address.

Owns: the way from settings to client keys, the turn among several proxies, the check that
what the settings ask for can be had here. Does not own: clients (`pool`), what a setting
means and may be (`settings`), the health of a proxy (`proxies`).

Invariants: a domain's key changes only with the open runs and with the turn of its
proxies; of several runs' wishes certificates are checked if one wants it, HTTP/2 is spoken
if all do, the first local address counts; a proxy that is set and cannot be used never
means a direct connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from importlib.util import find_spec
from typing import TYPE_CHECKING

from crawler.errors import FetchError, SettingsError
from crawler.pool import (
    ClientCache,
    ClientKey,
    HeadLimits,
    ProxyRoute,
    Resolver,
    SocketBudget,
    TlsProfile,
    raise_descriptor_limit,
)
from crawler.proxies import Rotation
from crawler.units import masked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crawler.proxies import ProxyStats
    from crawler.settings import DomainSettings, Settings

__all__ = [
    "Access",
    "AllRest",
    "NextProxy",
    "check",
    "forwards",
    "open_clients",
    "without_credentials",
]

KNOWN = 10_000
"""Domains whose key is kept ready."""


def open_clients(settings: Settings, *, clock: Callable[[], float]) -> ClientCache:
    """The client cache of a session; the process's descriptor limit is raised for it."""
    raise_descriptor_limit()
    pool, head = settings.pool, settings.head
    return ClientCache(
        pool.clients,
        budget=SocketBudget(pool.sockets),
        keepalive=pool.keepalive,
        resolver=Resolver(overrides=settings.resolve),
        transport=pool.transport,
        limits=HeadLimits(head.bytes, head.fields, head.interim),
        clock=clock,
    )


class AllRest(FetchError):
    """Every proxy of a domain rests; `pause_s` seconds until the first may be tried again."""

    def __init__(self, rest_s: float) -> None:
        super().__init__("local", f"every proxy rests, the first one for {rest_s:.0f} s more")
        self.pause_s = rest_s


class NextProxy(FetchError):
    """A proxy failed, and another one is well: the request goes through that, uncharged."""

    pause_s = 0.0

    def __init__(self, message: str) -> None:
        super().__init__("proxy", message)

    @property
    def fault(self) -> str:
        """Not the request's."""
        return "local"


class Access:
    """Keys and proxies of a session. `wishes` gives what the open runs ask of a domain."""

    def __init__(
        self, settings: Settings, wishes: Callable[[str], Sequence[DomainSettings]]
    ) -> None:
        tls = settings.tls
        self._tls = TlsProfile(
            ca_file=tls.ca_file, client_cert=tls.client_cert, minimum=tls.minimum
        )
        self._wishes = wishes
        self._keys: OrderedDict[str, tuple[ClientKey, Rotation | None]] = OrderedDict()
        self._rotations: dict[tuple[str, ...], Rotation] = {}

    def __repr__(self) -> str:
        return f"<Access {len(self._keys)} keys, {len(self._rotations)} rotations>"

    def key(self, domain: str) -> ClientKey:
        """Whose client serves the domain next; where several proxies take turns, the next
        one's, and where all of them rest, that of the first to wake."""
        known = self._keys.get(domain)
        if known is None:
            known = self._keys[domain] = self._made(domain)
            if len(self._keys) > KNOWN:
                self._keys.popitem(last=False)
        key, rotation = known
        if rotation is None:
            return key
        return key._replace(proxy=rotation.peek(_now())[0])

    def taken(self, domain: str) -> None:
        """The domain's key has served for a lease: the next proxy's turn has come."""
        rotation = self._keys[domain][1]
        if rotation is not None:
            rotation.pick(_now())

    def forget_keys(self) -> None:
        """A run has begun or ended: other wishes hold."""
        self._keys.clear()

    def proxy(self, proxies: tuple[str, ...], leased: str | None) -> str:
        """Which of a domain's proxies a request takes: the leased one, if it is of them.

        Raises AllRest when none of several may be tried now.
        """
        if len(proxies) == 1:
            return proxies[0]
        rotation = self._rotation(proxies)
        _, rest_s = rotation.peek(_now())
        if rest_s > 0 and (leased is None or rotation.is_resting(leased, _now())):
            raise AllRest(rest_s)
        if leased in proxies and leased is not None:
            return leased
        return rotation.pick(_now()).proxy or proxies[0]

    def heard(self, proxies: tuple[str, ...], proxy: str, *, has_failed: bool) -> None:
        """What became of a request through one of several proxies."""
        if len(proxies) == 1:
            return
        if has_failed:
            self._rotation(proxies).failed(proxy, _now())
        else:
            self._rotation(proxies).worked(proxy)

    def has_ready(self, proxies: tuple[str, ...]) -> bool:
        """Whether one of several may be tried now."""
        return len(proxies) > 1 and self._rotation(proxies).has_ready(_now())

    def stats(self) -> tuple[ProxyStats, ...]:
        """The proxies of all rotations, credentials masked."""
        return tuple(one for rotation in self._rotations.values() for one in rotation.stats())

    def _rotation(self, proxies: tuple[str, ...]) -> Rotation:
        """One for all domains with the same proxies: what rests, rests for all of them."""
        if proxies not in self._rotations:
            self._rotations[proxies] = Rotation(proxies)
        return self._rotations[proxies]

    def _made(self, domain: str) -> tuple[ClientKey, Rotation | None]:
        """The key, and whose turn its proxy is; runs that want different proxies share a
        direct client, and each of their requests is led through its own."""
        wishes = self._wishes(domain)
        proxies = wishes[0].proxies if len({wish.proxies for wish in wishes}) == 1 else ()
        addresses = [wish.local_address for wish in wishes if wish.local_address is not None]
        key = ClientKey(
            domain,
            proxy=proxies[0] if proxies else None,
            tls=self._tls._replace(verify=any(wish.verify for wish in wishes)),
            local_address=addresses[0] if addresses else None,
            http2=all(wish.http2 for wish in wishes),
        )
        return key, self._rotation(proxies) if len(proxies) > 1 else None


def _now() -> float:
    return asyncio.get_running_loop().time()


SHARED = ("pool", "tls", "resolve", "head")
"""Settings of a session: runs that share its clients cannot have others."""


def check(settings: Settings, of_session: Settings) -> None:
    """Raises SettingsError for what cannot be had: a missing extra, an address this machine
    has not, a proxy whose credentials its protocol cannot carry, a setting of the session
    that a run wants otherwise."""
    theirs = of_session.effective()
    for name, value in settings.given().items():
        if name.partition(".")[0] in SHARED and theirs.get(name) != value:
            raise SettingsError(
                f"`{name}` holds for a whole session, and this one was opened with another value",
                hint="give it to Session.open(...), or run the spider in a session of its own",
            )
    groups = {"domain": settings.domain}
    groups |= {f'domains."{name}"': group for name, group in settings.domains.items()}
    for name, group in groups.items():
        if group.http2 and find_spec("h2") is None:
            raise SettingsError(
                f"{name}.http2 needs the package h2", hint='pip install "poolcrawl[http2]"'
            )
        if group.local_address is not None:
            _check_local_address(name, group.local_address)
        for proxy in group.proxies:
            try:
                ProxyRoute.parse(proxy)
            except SettingsError as error:
                raise SettingsError(
                    f"{name}.proxies: {masked(proxy)}: {error}", hint=error.hint
                ) from error


def _check_local_address(group: str, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as sock:
            sock.bind((address, 0))
    except OSError as error:
        raise SettingsError(
            f"{group}.local_address {address} is no address of this machine: {error.strerror}",
            hint="`ip address` shows those there are",
        ) from error


def forwards(proxy: str | None, url: str) -> bool:
    """Whether the proxy reads and answers the request itself: plain http by an HTTP proxy."""
    return proxy is not None and proxy.startswith("http") and url.startswith("http://")


def without_credentials(proxy: str) -> str:
    """A proxy's URL as rows show it."""
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].rstrip('/')}"
