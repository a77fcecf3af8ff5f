"""TLS on the wire: what is checked, and what a failure is called."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme

from crawler.errors import SettingsError
from crawler.pool import ClientKey, TlsProfile
from crawler.pool.tls import TlsContexts
from tests.pool_server import OK, Peer, Server
from tests.wire import (
    CA_FILE,
    Wire,
    fetch,
    good_context,
    on_each_wire,
    refused,
    turns,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HEAD = b"HTTP/1.1 200 OK\r\n"
CA = trustme.CA()
OTHER_CA = trustme.CA()
TRUSTING = TlsProfile(ca_file=CA_FILE)
LOOSE = TlsProfile(verify=False)


def context_of(leaf: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> TlsProfile:
    """Trusts one authority."""
    path: Path = tmp_path_factory.mktemp("tls") / "ca.pem"
    CA.cert_pem.write_to_path(str(path))
    return TlsProfile(ca_file=str(path))


# Row 29: what a handshake can fail at

YESTERDAY = datetime.now(UTC) - timedelta(days=1)
BAD_CERTIFICATES = {
    "row-29-expired": (
        CA.issue_cert("127.0.0.1", not_before=YESTERDAY - timedelta(9), not_after=YESTERDAY),
        "certificate has expired",
    ),
    "row-29-not-yet-valid": (
        CA.issue_cert("127.0.0.1", not_before=YESTERDAY + timedelta(days=2)),
        "not yet valid",
    ),
    "row-29-wrong-address": (CA.issue_cert("127.0.0.9"), "mismatch"),
    "row-29-wrong-name": (CA.issue_cert("other.test"), "mismatch"),
    "row-29-unknown-authority": (OTHER_CA.issue_cert("127.0.0.1"), "issuer"),
}


@on_each_wire
@pytest.mark.parametrize(("leaf", "reason"), BAD_CERTIFICATES.values(), ids=BAD_CERTIFICATES)
def test_a_bad_certificate_is_refused_and_the_message_says_which_check_failed(
    leaf: trustme.LeafCert, reason: str, profile: TlsProfile, wire: Wire
) -> None:
    async def scene() -> None:
        async with Server(tls=context_of(leaf)) as server, wire.open_cache() as cache:
            key = ClientKey(server.domain, tls=profile)
            error = await refused(cache, server.url, key=key)
            assert error.code == "tls"
            assert "certificate" in str(error)
            assert reason in str(error)
            assert server.heads == []
            await until(lambda: cache.budget.stats().open == 0)
            unchecked = ClientKey(server.domain, tls=LOOSE)
            assert await fetch(cache, server.url, key=unchecked) == (200, b"ok", False)

    wire.play(scene)


@on_each_wire
def test_row_29_a_self_signed_certificate_is_refused_unless_it_is_trusted(wire: Wire) -> None:
    async def scene() -> None:
        async with (
            Server(tls=good_context()) as server,
            Server(tls=good_context(), host="127.0.0.2") as other,
            wire.open_cache() as cache,
        ):
            error = await refused(cache, server.url, key=ClientKey("shop"))
            assert error.code == "tls"
            assert "self-signed" in str(error)
            error = await refused(cache, other.url, key=ClientKey("shop", tls=TRUSTING))
            assert error.code == "tls"
            assert "IP address mismatch" in str(error)
            for expected in (False, True):
                key = ClientKey(server.domain, tls=TRUSTING)
                assert await fetch(cache, server.url, key=key) == (200, b"ok", expected)
            assert cache.contexts.stats().built == 2

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize("is_loose_first", [True, False])
def test_row_29_an_unchecked_client_does_not_open_the_door_for_a_checked_one(
    is_loose_first: bool, wire: Wire
) -> None:
    async def scene() -> None:
        async with Server(tls=good_context()) as server, wire.open_cache() as cache:
            strict = ClientKey(server.domain)
            loose = ClientKey(server.domain, tls=LOOSE)
            if not is_loose_first:
                assert (await refused(cache, server.url, key=strict)).code == "tls"
            for expected in (False, True):
                assert (await fetch(cache, server.url, key=loose)).reused is expected
                assert (await refused(cache, server.url, key=strict)).code == "tls"
            assert server.connections == 1

    wire.play(scene)


@asynccontextmanager
async def handshaking(context: ssl.SSLContext) -> AsyncIterator[str]:
    """A port that shakes hands, says with an alert why not, and closes.

    asyncio's own server closes without the alert.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        shaking = context.wrap_bio(incoming, outgoing, server_side=True)
        with suppress(ssl.SSLError, OSError):
            while data := await reader.read(65536):
                incoming.write(data)
                try:
                    shaking.do_handshake()
                except ssl.SSLWantReadError:
                    pass
                finally:
                    writer.write(outgoing.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@on_each_wire
def test_row_29_an_old_version_is_refused(profile: TlsProfile, wire: Wire) -> None:
    context = context_of(CA.issue_cert("127.0.0.1"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT@SECLEVEL=0")

    async def scene() -> None:
        async with handshaking(context) as url, wire.open_cache() as cache:
            error = await refused(cache, url, key=ClientKey("shop", tls=profile))
            assert error.code == "tls"
            assert "VERSION" in str(error).upper()
            await until(lambda: cache.budget.stats().open == 0)

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize(
    ("version", "codes"),
    [
        pytest.param(ssl.TLSVersion.TLSv1_2, ["tls"], id="1.2"),
        # In 1.3 the alert comes after the handshake, and a reset may overtake it.
        pytest.param(ssl.TLSVersion.TLSv1_3, ["tls", "reset"], id="1.3"),
    ],
)
def test_row_29_a_server_that_wants_a_client_certificate_is_a_tls_error(
    version: ssl.TLSVersion, codes: list[str], profile: TlsProfile, wire: Wire
) -> None:
    context = context_of(CA.issue_cert("127.0.0.1"))
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    CA.configure_trust(context)

    async def scene() -> None:
        async with handshaking(context) as url, wire.open_cache() as cache:
            error = await refused(cache, url, key=ClientKey("shop", tls=profile))
            assert error.code in codes
            await until(lambda: cache.budget.stats().open == 0)

    wire.play(scene)


# Row 7 and row 29: handshakes that are not one


class Raw:
    """A port that does as told with whoever connects; counts who is connected."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            if self.way == "banner":
                writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            if self.way != "close-at-once":
                await reader.read(65536)
            if self.way == "half-a-record":
                writer.write(b"\x16\x03\x03\x00\x7a\x02\x00")
                writer.write_eof()
            elif self.way == "reset":
                writer.transport.abort()
            elif self.way == "alert":
                writer.write(b"\x15\x03\x03\x00\x02\x02\x28")
            if self.way in ("silence", "banner", "alert"):
                while await reader.read(65536):
                    pass
        except OSError:
            pass
        finally:
            writer.close()
            self.open -= 1

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@on_each_wire
@pytest.mark.parametrize(
    ("way", "codes"),
    [
        pytest.param("silence", ["tls-timeout"], id="row-07-silence"),
        pytest.param("banner", ["tls"], id="row-29-banner"),
        pytest.param("alert", ["tls"], id="row-29-alert"),
        pytest.param("close-at-once", ["tls", "reset"], id="row-29-close-at-once"),
        pytest.param("close", ["tls", "reset"], id="row-29-close"),
        pytest.param("half-a-record", ["tls", "reset"], id="row-29-half-a-record"),
        pytest.param("reset", ["tls", "reset"], id="row-29-reset"),
    ],
)
def test_a_handshake_that_comes_to_nothing_has_its_code(
    way: str, codes: list[str], wire: Wire
) -> None:
    async def scene() -> None:
        raw = Raw(way)
        async with raw.listen() as url, wire.open_cache() as cache:
            wait_s = 0.1 if way == "silence" else 5.0
            error = await refused(cache, url, tls=wait_s)
            assert error.code in codes
            assert error.url == url
            assert cache.stats().leases == 0
            await until(lambda: raw.open == cache.budget.stats().open == 0)

    wire.play(scene)


# Row 29: ends of bodies under TLS


def ending(data: bytes, *, is_notified: bool) -> Server:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(data)
        if not is_notified:
            await turns(3)  # one loop writes at the end of a turn only
            peer.finish_now()
            await peer.until_gone()
        return False

    return Server(script, tls=good_context())


@on_each_wire
def test_row_29_an_end_without_close_notify_is_no_end_of_a_body(wire: Wire) -> None:
    async def scene() -> None:
        async with (
            ending(HEAD + b"\r\nhalf", is_notified=False) as server,
            wire.open_cache() as cache,
        ):
            key = ClientKey(server.domain, tls=TRUSTING)
            assert (await refused(cache, server.url, key=key)).code == "truncated"
            await server.until_open(0)

    wire.play(scene)


@on_each_wire
def test_row_29_an_end_with_close_notify_is_the_end_of_a_body(wire: Wire) -> None:
    async def scene() -> None:
        async with (
            ending(HEAD + b"\r\n" + b"x" * 99_999, is_notified=True) as server,
            wire.open_cache() as cache,
        ):
            key = ClientKey(server.domain, tls=TRUSTING)
            got = await fetch(cache, server.url, key=key)
            assert got == (200, b"x" * 99_999, False)
            await server.until_open(0)

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize("is_notified", [True, False])
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (OK, "ok"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "truncated"),
        (HEAD + b"Content-Length: 3\r\n\r\nok", "truncated"),
    ],
    ids=["length", "chunks", "cut-chunks", "cut-length"],
)
def test_row_29_a_body_with_its_own_framing_needs_no_close_notify(
    data: bytes, code: str, is_notified: bool, wire: Wire
) -> None:
    async def scene() -> None:
        async with ending(data, is_notified=is_notified) as server, wire.open_cache() as cache:
            key = ClientKey(server.domain, tls=TRUSTING)
            if code == "ok":
                assert await fetch(cache, server.url, key=key) == (200, b"ok", False)
            else:
                assert (await refused(cache, server.url, key=key)).code == code
            await server.until_open(0)
            await until(lambda: cache.budget.stats().open == 0)

    wire.play(scene)


@on_each_wire
def test_a_kept_connection_needs_no_second_handshake(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(tls=good_context()) as server, wire.open_cache() as cache:
            key = ClientKey(server.domain, tls=TRUSTING)
            for _ in range(100):
                await fetch(cache, server.url, key=key)
            stats = cache.stats()
            assert (stats.new_connections, stats.reused_connections) == (1, 99)
            assert server.connections == 1

    wire.play(scene)


@on_each_wire
def test_a_ca_file_that_is_missing_is_a_settings_error(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(tls=good_context()) as server, wire.open_cache() as cache:
            key = ClientKey("shop", tls=TlsProfile(ca_file="/nowhere.pem"))
            with pytest.raises(SettingsError, match=r"tls\.ca_file"):
                await fetch(cache, server.url, key=key)
            await until(lambda: cache.budget.stats().open == 0)

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize("url", ["ftp://127.0.0.1:1", "127.0.0.1:8080", "http://", "http://h:x"])
def test_a_proxy_that_cannot_be_used_is_refused_before_any_connection(url: str, wire: Wire) -> None:
    async def scene() -> None:
        async with wire.open_cache(1) as cache:
            with pytest.raises(SettingsError):
                cache.lease(ClientKey("shop.test", proxy=url))
            assert cache.stats().clients == 0

    wire.play(scene)


def test_a_version_of_tls_that_is_none_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match=r"tls\.minimum = '1\.9': expected '1\.2' or '1\.3'"):
        TlsContexts().context(TlsProfile(minimum="1.9"))
