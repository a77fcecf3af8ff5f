"""The way to an origin: a socket, a proxy's handshake, TLS; for both kinds of connection.

Owns: the order of these steps, which of them a proxy changes, whose fault a failure is.
Does not own: sockets (`dialer`), the handshakes' bytes (`proxy`), HTTP.

Invariants: a route with a proxy never connects to the origin itself; TLS is verified by
the origin's name, whatever address was connected to; a step that fails, or is cancelled,
leaves no socket.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from crawler.errors import FetchError
from crawler.pool.channel import Channel
from crawler.pool.proxy import absolute_target, connect_tunnel, socks5_connect

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from crawler.pool.call import Call, Headers, Origin
    from crawler.pool.deadlines import Deadlines
    from crawler.pool.dialer import Dialer
    from crawler.pool.proxy import ProxyRoute

__all__ = ["Route", "open_channel"]

C = TypeVar("C", bound=Channel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """All that a connection needs to be opened."""

    dialer: Dialer
    context: Callable[[], ssl.SSLContext]
    """For TLS with origins; asked only when it is spoken."""
    proxy_context: Callable[[], ssl.SSLContext]
    """For TLS with the proxy, which is spoken to in HTTP/1.1."""
    proxy: ProxyRoute | None = None
    """None: direct."""
    local_address: str | None = None
    """Address that connections leave from; None: the system's choice."""

    def forwarding(self, call: Call) -> tuple[bytes | None, Headers | None]:
        """What changes in the head of a call that an HTTP proxy forwards (RFC 9112 §3.2.2).

        The absolute target, and the proxy's credentials; (None, None): nothing changes.
        """
        proxy = self.proxy
        if proxy is None or not proxy.is_http or call.origin.scheme != "http":
            return None, None
        target = absolute_target("http", call.origin.authority, call.target)
        secret = proxy.authorization()
        return target, None if secret is None else [(b"Proxy-Authorization", secret)]


async def open_channel(
    make: Callable[[], C], origin: Origin, route: Route, deadlines: Deadlines
) -> C:
    """A channel on which the origin listens, or the proxy that forwards to it.

    Raises FetchError: those of `Dialer.connect` and `Channel.start_tls`, and `proxy` for
    what stands between us and the origin.
    """
    channel = make()
    begun = time.monotonic()
    try:
        if route.proxy is None:
            await route.dialer.connect(
                channel,
                origin.host,
                origin.port,
                timeout=deadlines.connect,
                local_address=route.local_address,
            )
        else:
            await _to_proxy(channel, origin, route, route.proxy, deadlines)
        if origin.scheme == "https":
            await channel.start_tls(route.context(), origin.host, timeout=deadlines.tls)
    except BaseException:
        channel.close()
        raise
    channel.connect_s = time.monotonic() - begun
    return channel


async def _to_proxy(
    channel: Channel, origin: Origin, route: Route, proxy: ProxyRoute, deadlines: Deadlines
) -> None:
    """Reach the proxy and, where it does not forward, have it reach the origin."""
    try:
        await route.dialer.connect(
            channel,
            proxy.host,
            proxy.port,
            timeout=deadlines.connect,
            local_address=route.local_address,
        )
        if proxy.scheme == "https":
            await channel.start_tls(route.proxy_context(), proxy.host, timeout=deadlines.tls)
    except FetchError as error:
        if error.fault != "domain":
            raise
        raise FetchError("proxy", f"the proxy: {error.args[0]}") from error
    try:
        async with asyncio.timeout(deadlines.connect):
            if proxy.is_socks:
                await socks5_connect(channel, origin.host, origin.port, proxy)
            elif origin.scheme == "https":
                await connect_tunnel(channel, origin.host, origin.port, proxy)
    except TimeoutError as error:
        late = (
            f"the proxy made no way to {origin.domain} in {deadlines.connect} s (timeout.connect)"
        )
        raise FetchError("proxy", late) from error
