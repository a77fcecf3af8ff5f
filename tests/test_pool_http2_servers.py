"""HTTP/2: what a server does to the connection costs no request more than it must."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from crawler.pool import connection_of
from crawler.pool.call import Call, origin_of
from tests.h2_server import SETTINGS, H2Server, Stream, polite, silent
from tests.h2_wire import Gate, Half, fails, get, key_of, on_both_loops, pool, settle
from tests.wire import Wire, attempt, exchange, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# The window of the connection


async def large(stream: Stream) -> None:
    stream.head()
    await stream.data(bytes(200_000), end=True)


@on_both_loops
def test_whole_answers_closed_unread_do_not_use_up_the_window(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawler.pool.multiplex.ALL_WINDOWS", 1 << 20)

    async def scene() -> None:
        async with H2Server(large) as server, wire.open_cache() as cache:
            lease = cache.lease(key_of(server))
            for _ in range(20):
                asked = lease.client.build_request("GET", server.url)
                response = await lease.client.send(asked, stream=True)
                await server.until(lambda: server.active == 0)
                peer = server.peers[0]
                peer.pongs.clear()
                peer.h2.ping(bytes(8))
                peer.flush()
                await peer.pongs.wait()  # all before it has come
                await response.aclose()
                await response.aclose()
            lease.release()
            assert server.connections == 1
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_an_answer_closed_unread_makes_room_at_once(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawler.pool.multiplex.ALL_WINDOWS", 400_000 - 65_535)

    async def scene() -> None:
        async with H2Server(large) as server, wire.open_cache() as cache:
            lease = cache.lease(key_of(server), 4)
            asked = lease.client.build_request("GET", server.url)
            whole = [await lease.client.send(asked, stream=True) for _ in range(2)]
            await server.until(lambda: server.active == 0)
            third = await lease.client.send(asked, stream=True)
            for response in whole:
                await response.aclose()
            assert len(await third.aread()) == 200_000
            lease.release()
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_readers_who_stop_leave_room_for_all_others(wire: Wire) -> None:
    async def scene() -> None:
        async def window(stream: Stream) -> None:
            stream.head()
            await stream.data(bytes(256 * 1024), end=True)

        async with H2Server(window) as server, wire.open_cache() as cache:
            lease = cache.lease(key_of(server), 100)
            asked = lease.client.build_request("GET", server.url)
            stopped = [await lease.client.send(asked, stream=True) for _ in range(66)]
            await server.until(lambda: server.active == 0)
            server.script = polite
            assert (await get(cache, server, connections=100)).body == b"ok"
            for response in stopped:
                await response.aclose()
            lease.release()
            await settle(cache, server)

    wire.play(scene)


# Tables of compression


@on_both_loops
def test_a_pushed_answer_ends_the_connection_before_fields_of_others_are_mixed_up(
    wire: Wire,
) -> None:
    async def scene() -> None:
        async def script(stream: Stream) -> None:
            if stream.path == "/push":
                block = stream.peer.h2.encoder.encode([("x-secret", "pushed")])
                body = (2).to_bytes(4, "big") + block
                frame = len(body).to_bytes(3, "big") + b"\x05\x04" + stream.id.to_bytes(4, "big")
                stream.peer.raw(frame + body)
                await stream.is_reset.wait()
            elif stream.path == "/first":
                await stream.answer(b"1", ("set-cookie", "user=alice"), ("x-a", "1"))
            else:
                await stream.answer(b"2", ("x-secret", "pushed"), ("x-a", "1"))

        async with H2Server(script) as server, wire.open_cache() as cache:
            key = key_of(server)
            await exchange(cache, server.url + "first", key=key)
            assert (await fails(cache, server, "push")).code == "protocol"
            response, _ = await exchange(cache, server.url + "second", key=key)
            assert response.headers["x-secret"] == "pushed"
            assert "set-cookie" not in response.headers
            await settle(cache, server, on=2)

    wire.play(scene)


@on_both_loops
def test_a_server_cannot_make_our_table_large(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server() as server, wire.open_cache() as cache:
            await get(cache, server)
            peer = server.peers[0]
            for size, kept in ((1 << 30, 4096), (100, 100), (65_536, 4096)):
                peer.settled.clear()
                peer.settings(HEADER_TABLE_SIZE=size)
                await peer.settled.wait()
                for n in range(3):
                    assert (await get(cache, server, f"{size}-{n}")).body == b"ok"
                assert peer.h2.decoder.header_table_size == kept
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(b"\0\4\xff\xff\xff\xff", id="window"),
        pytest.param(b"\0\5\0\0\0\0", id="frame-size"),
        pytest.param(b"\0\2\0\0\0\7", id="push"),
    ],
)
def test_an_impossible_setting_is_the_servers_fault_and_never_the_loops(
    setting: bytes, wire: Wire
) -> None:
    async def scene() -> None:
        async def script(stream: Stream) -> None:
            stream.peer.raw(b"\0\0\6\4\0\0\0\0\0" + setting)
            await stream.is_reset.wait()

        found: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
        async with H2Server(script) as server, wire.open_cache() as cache:
            assert (await fails(cache, server)).code == "protocol"
            await settle(cache, server, on=2)
        assert found == []

    wire.play(scene)


# Requests the server has not looked at


@on_both_loops
def test_who_waits_is_not_given_a_connection_that_is_told_to_go(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server(silent) as server, wire.open_cache() as cache:
            url, key = server.url, key_of(server)
            first = asyncio.ensure_future(attempt(cache, url + "first", key=key, connections=1))
            await server.until(lambda: server.active == 1)
            waiting = asyncio.ensure_future(
                exchange(cache, url, key=key, connections=1, method="POST", content=b"x")
            )
            await until(lambda: pool(cache, server).waiting == 1)
            server.script = polite
            server.peers[0].go_away(0)
            response, body = await waiting
            assert (body, connection_of(response).replays) == (b"x", 0)
            assert (await first)[1] == b"ok"
            await settle(cache, server, on=2)

    wire.play(scene)


@on_both_loops
def test_who_was_given_a_place_that_the_server_takes_back_waits_again(wire: Wire) -> None:
    async def scene() -> None:
        gate = Gate()
        async with H2Server(MAX_CONCURRENT_STREAMS=2) as server, wire.open_cache() as cache:
            await get(cache, server)
            server.script = gate
            tasks = [
                asyncio.ensure_future(exchange(cache, server.url + f"{n}", key=key_of(server)))
                for n in range(4)
            ]
            await server.until(lambda: server.active == 2)
            await until(lambda: pool(cache, server).waiting == 2)
            peer, ending = server.peers[0], server.streams[-2]
            peer.h2.send_headers(ending.id, [(":status", "200")], end_stream=True)
            peer.h2.update_settings({SETTINGS["MAX_CONCURRENT_STREAMS"]: 1})
            server.over(ending)
            peer.settled.clear()
            peer.flush()  # the end and the setting in one packet
            await peer.settled.wait()
            server.peak = 0
            gate.opened.set()
            found = await asyncio.gather(*tasks)
            assert [response.status_code for response, _ in found] == [200] * 4
            assert [connection_of(response).replays for response, _ in found] == [0] * 4
            assert server.peak <= 1
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_a_second_connection_opened_unawares_serves_its_request_and_goes(wire: Wire) -> None:
    async def scene() -> None:
        gate = Gate()
        async with H2Server(gate) as server, wire.open_cache() as cache:
            origin = origin_of("https", server.domain)
            cache.dialer.remember_plain(origin, is_plain=True)  # it was, until now
            tasks = [
                asyncio.ensure_future(
                    exchange(cache, server.url, key=key_of(server), method="POST", content=b"x")
                )
                for _ in range(2)
            ]
            await server.until(lambda: server.active == 2)
            assert server.open == 2
            gate.opened.set()
            for response, body in await asyncio.gather(*tasks):
                assert (body, connection_of(response).replays) == (b"ok", 0)
            await server.until(lambda: server.open == 1)
            await settle(cache, server, on=2)

    wire.play(scene)


# Uploads


@on_both_loops
def test_a_stalled_upload_whose_answer_has_begun_is_late_no_more(wire: Wire) -> None:
    async def scene() -> None:
        async def early(stream: Stream) -> None:
            stream.head()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.15):
                    await stream.is_reset.wait()
            await stream.data(b"enough", end=True)
            await stream.is_reset.wait()

        async with H2Server(INITIAL_WINDOW_SIZE=0) as server, wire.open_cache() as cache:
            await get(cache, server)
            server.script = early
            found = await get(cache, server, method="POST", content=bytes(1000), write=0.05)
            assert found[:2] == (200, b"enough")
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_an_upload_that_is_given_up_closes_what_it_came_from(wire: Wire) -> None:
    async def scene() -> None:
        async def early(stream: Stream) -> None:
            stream.head(status="413", end=True)
            await stream.is_reset.wait()

        closed = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(1000)
            finally:
                closed.set()

        async with H2Server(INITIAL_WINDOW_SIZE=0) as server, wire.open_cache() as cache:
            await get(cache, server)
            server.script = early
            lease = cache.lease(key_of(server))
            transport: Any = lease.client.transport
            origin = origin_of("https", server.domain)
            answer = await transport.pool.send(Call(b"POST", origin, b"/", [], body()))
            assert answer.status == 413
            await answer.aclose()
            await closed.wait()
            lease.release()
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_a_connection_that_has_counted_to_its_end_is_replaced(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server() as server, wire.open_cache() as cache:
            await get(cache, server)
            lease = cache.lease(key_of(server))
            transport: Any = lease.client.transport
            (host,) = transport.pool._hosts.values()
            (link,) = host.links
            link._multiplex._h2_state.highest_outbound_stream_id = (1 << 31) - 1
            lease.release()
            posted = await get(cache, server, method="POST", content=b"x")
            assert posted.body == b"x"
            await server.until(lambda: server.open == 1)
            await settle(cache, server, on=2)

    wire.play(scene)


@on_both_loops
def test_uploads_take_turns_when_the_server_reads_slowly(wire: Wire) -> None:
    async def scene() -> None:
        size, apart, owed = 400_000, 0, [0]

        def owe(length: int, _: int) -> None:
            owed[0] += length

        async with H2Server(INITIAL_WINDOW_SIZE=1 << 20) as server, wire.open_cache() as cache:
            await get(cache, server)
            peer = server.peers[0]
            restored, peer.h2.acknowledge_received_data = peer.h2.acknowledge_received_data, owe
            tasks = [
                asyncio.ensure_future(get(cache, server, method="PUT", content=bytes(size)))
                for _ in range(3)
            ]
            await server.until(lambda: server.active == 3)
            uploads = server.streams[1:]
            while not any(stream.has_ended.is_set() for stream in uploads):
                await server.until(lambda: owed[0] > 0)
                given = min(owed[0], 16_384)
                owed[0] -= given
                peer.h2.increment_flow_control_window(given)
                peer.flush()
                sizes = [len(stream.body) for stream in uploads]
                apart = max(apart, max(sizes) - min(sizes))
            peer.h2.acknowledge_received_data = restored
            peer.h2.increment_flow_control_window(1 << 20)
            peer.flush()
            assert [len(each.body) for each in await asyncio.gather(*tasks)] == [size] * 3
            assert apart < size // 2
            await settle(cache, server)

    wire.play(scene)


# The end of the connection


@on_both_loops
@pytest.mark.parametrize("is_length_known", [True, False])
def test_a_body_cut_off_by_the_connections_end_is_truncated(
    is_length_known: bool, wire: Wire
) -> None:
    async def scene() -> None:
        async def unknown(stream: Stream) -> None:
            stream.head()
            await stream.data(b"half")
            half.is_sent.set()
            await stream.is_reset.wait()

        half = Half()
        async with H2Server() as server, wire.open_cache() as cache:
            server.script = half if is_length_known else unknown
            task = asyncio.ensure_future(fails(cache, server))
            await half.is_sent.wait()
            server.peers[0].writer.close()
            error = await task
            assert error.code == "truncated"
            assert "the body ended after 4 bytes" in str(error)
            await settle(cache, server, on=2)

    wire.play(scene)
