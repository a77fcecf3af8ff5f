"""Happy eyeballs: who is tried when, who wins, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.pool.eyeballs import first_connected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RUNNERS = [asyncio.run, uvloop.run]
ON_BOTH_LOOPS = pytest.mark.parametrize("run", RUNNERS, ids=["asyncio", "uvloop"])
NEVER = 60.0
SOON = 0.02

Sockaddr = tuple[str, int]


class Tokens:
    """Counts what `first_connected` takes, gives back and is told."""

    def __init__(self, spare: int = 100) -> None:
        self.spare = spare
        self.extra = 0
        self.asked = 0
        self.failures: list[tuple[Any, int | None]] = []
        self.told = asyncio.Event()

    def may_race(self) -> bool:
        self.asked += 1
        if self.extra == self.spare:
            return False
        self.extra += 1
        return True

    def raced(self) -> None:
        self.extra -= 1
        assert self.extra >= 0, "given back twice"

    def failed(self, address: Any, error: OSError) -> None:
        self.failures.append((address, error.errno))
        self.told.set()


class Sockets(Tokens):
    """Connects real sockets, and knows which are open."""

    def __init__(self, spare: int = 100) -> None:
        super().__init__(spare)
        self.tried: list[Sockaddr] = []
        self.open: set[socket.socket] = set()
        self.both_tried = asyncio.Event()

    async def connect(self, address: Sockaddr) -> socket.socket:
        self.tried.append(address)
        if len(self.tried) == 2:
            self.both_tried.set()
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        self.open.add(sock)
        assert len(self.open) <= 1 + self.extra, "a socket without a token"
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            self.close(sock)
            raise
        return sock

    def close(self, sock: socket.socket) -> None:
        sock.close()
        self.open.remove(sock)

    async def first(self, addresses: Sequence[Sockaddr], stagger: float) -> socket.socket:
        return await first_connected(
            addresses,
            self.connect,
            may_race=self.may_race,
            raced=self.raced,
            discard=self.close,
            failed=self.failed,
            stagger=stagger,
        )

    async def winner(self, addresses: Sequence[Sockaddr], stagger: float) -> Sockaddr:
        sock = await self.first(addresses, stagger)
        peer: Sockaddr = sock.getpeername()[:2]
        assert self.open == {sock}
        assert self.extra == 0
        self.close(sock)
        return peer


@contextlib.contextmanager
def listening(host: str, port: int = 0) -> Iterator[Sockaddr]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind((host, port))
        server.listen(16)
        yield server.getsockname()[:2]


@contextlib.contextmanager
def refusing(host: str) -> Iterator[Sockaddr]:
    """Bound, so that nobody else listens there, and not listening."""
    with socket.socket() as server:
        server.bind((host, 0))
        yield server.getsockname()


@contextlib.contextmanager
def black_hole(host: str) -> Iterator[Sockaddr]:
    """A full backlog: the kernel drops what comes."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind((host, 0))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


# -- real sockets --------------------------------------------------------------------------


@ON_BOTH_LOOPS
def test_a_refused_address_gives_way_at_once(run: Any) -> None:
    with refusing("127.0.0.2") as closed, listening("127.0.0.3") as live:
        sockets = Sockets()
        assert run(sockets.winner([closed, live], NEVER)) == live
    assert sockets.failures == [(closed, errno.ECONNREFUSED)]
    assert sockets.asked == 0, "the token of the refused one was free"


@ON_BOTH_LOOPS
def test_a_silent_address_is_overtaken_and_its_socket_closed(run: Any) -> None:
    with black_hole("127.0.0.2") as silent, listening("127.0.0.3") as live:
        sockets = Sockets()
        assert run(sockets.winner([silent, live], SOON)) == live
    assert sockets.tried == [silent, live]
    assert sockets.asked == 1
    assert sockets.failures == [(silent, errno.ETIMEDOUT)]


@ON_BOTH_LOOPS
def test_without_another_token_a_silent_address_is_waited_for(run: Any) -> None:
    async def scene(addresses: list[Sockaddr]) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await sockets.first(addresses, SOON)

    with black_hole("127.0.0.2") as silent, listening("127.0.0.3") as live:
        sockets = Sockets(spare=0)
        run(scene([silent, live]))
    assert sockets.tried == [silent]
    assert (sockets.asked, sockets.extra, sockets.open) == (1, 0, set())


@ON_BOTH_LOOPS
def test_several_silent_addresses_are_all_overtaken(run: Any) -> None:
    with (
        black_hole("127.0.0.2") as one,
        black_hole("127.0.0.3") as two,
        refusing("127.0.0.4") as closed,
        listening("127.0.0.5") as live,
    ):
        sockets = Sockets()
        assert run(sockets.winner([one, two, closed, live], SOON)) == live
    assert sockets.asked == 2, "the last one had the token of the refused one"
    assert sockets.failures == [
        (closed, errno.ECONNREFUSED),
        (one, errno.ETIMEDOUT),
        (two, errno.ETIMEDOUT),
    ]


@ON_BOTH_LOOPS
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_one_family_refused_leaves_the_other(run: Any) -> None:
    with listening("127.0.0.1") as live:
        sockets = Sockets()
        assert run(sockets.winner([("::1", live[1]), live], NEVER)) == live
    with listening("::1") as live, black_hole("127.0.0.2") as silent:
        assert run(Sockets().winner([silent, live], SOON)) == live


@ON_BOTH_LOOPS
def test_a_connect_cancelled_amid_silent_addresses_leaves_nothing(run: Any) -> None:
    async def scene(addresses: list[Sockaddr]) -> None:
        task = asyncio.create_task(sockets.first(addresses, SOON))
        await sockets.both_tried.wait()
        assert len(sockets.open) == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with black_hole("127.0.0.2") as one, black_hole("127.0.0.3") as two:
        sockets = Sockets()
        run(scene([one, two]))
    assert (sockets.extra, sockets.open, sockets.failures) == (0, set(), [])


# -- decisions, by scripted attempts ---------------------------------------------------------


class Script(NamedTuple):
    """One attempt: `ticks` of the loop until its end, `cleaning` more when cancelled."""

    end: str
    ticks: int = 0
    cleaning: int = 0


ERRORS: dict[str, Callable[[], BaseException]] = {
    "refused": lambda: ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    "unreachable": lambda: OSError(errno.ENETUNREACH, "unreachable"),
    "late": lambda: TimeoutError("late"),
    "exhausted": lambda: OSError(errno.EMFILE, "too many open files"),
    "bug": lambda: ZeroDivisionError("a bug"),
}


class Attempts(Tokens):
    """Plays scripts instead of sockets; an address is an index of them."""

    def __init__(self, *scripts: Script, spare: int = 100) -> None:
        super().__init__(spare)
        self.scripts = scripts
        self.tried: list[int] = []
        self.running: set[int] = set()
        self.connected: set[int] = set()
        self.discarded: list[int] = []

    async def connect(self, address: int) -> int:
        self.tried.append(address)
        self.running.add(address)
        assert len(self.running | self.connected) <= 1 + self.extra, "no token for it"
        script = self.scripts[address]
        try:
            for _ in range(script.ticks):
                await asyncio.sleep(0)
            if script.end == "silent":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            for _ in range(script.cleaning):
                await asyncio.sleep(0)
            raise
        finally:
            self.running.remove(address)
        if script.end in ERRORS:
            raise ERRORS[script.end]()
        self.connected.add(address)
        return address

    def discard(self, address: int) -> None:
        self.connected.remove(address)
        self.discarded.append(address)

    async def first(self, stagger: float = 0.0) -> int:
        return await first_connected(
            range(len(self.scripts)),
            self.connect,
            may_race=self.may_race,
            raced=self.raced,
            discard=self.discard,
            failed=self.failed,
            stagger=stagger,
        )

    def leaves_nothing(self, winner: int | None = None) -> bool:
        kept = set() if winner is None else {winner}
        return (self.extra, self.running, self.connected) == (0, set(), kept)


@ON_BOTH_LOOPS
def test_a_single_address_costs_no_task_and_no_token(run: Any) -> None:
    tasks: list[Any] = []

    async def connect(address: int) -> int:
        tasks.append(asyncio.current_task())
        return address

    async def scene() -> None:
        told = Tokens()
        assert (
            await first_connected(
                [7],
                connect,
                may_race=told.may_race,
                raced=told.raced,
                discard=tasks.append,
                failed=told.failed,
            )
            == 7
        )
        assert tasks == [asyncio.current_task()]
        assert told.asked == 0

    run(scene())


def test_no_address_at_all_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no address"):
        asyncio.run(Attempts().first())


@ON_BOTH_LOOPS
@pytest.mark.parametrize("others", [(), ("unreachable",), ("unreachable", "late")])
def test_when_all_fail_the_last_error_is_raised(run: Any, others: tuple[str, ...]) -> None:
    attempts = Attempts(*map(Script, others), Script("refused"))
    with pytest.raises(ConnectionRefusedError):
        run(attempts.first(NEVER))
    assert [address for address, _ in attempts.failures] == list(range(len(others) + 1))
    assert attempts.leaves_nothing()


@ON_BOTH_LOOPS
@pytest.mark.parametrize("place", [0, 1])
def test_want_of_descriptors_ends_everything_and_is_no_address_s_fault(
    run: Any, place: int
) -> None:
    scripts = [Script("silent", cleaning=2), Script("silent"), Script("connected", 50)]
    scripts.insert(place, Script("exhausted", 1))
    attempts = Attempts(*scripts)
    with pytest.raises(OSError, match="too many open files"):
        run(attempts.first(NEVER if place == 0 else 0.0))
    assert 3 not in attempts.tried
    assert attempts.failures == []
    assert attempts.leaves_nothing()
    with pytest.raises(OSError, match="too many open files"):
        run((alone := Attempts(Script("exhausted"))).first())
    assert alone.failures == []


@ON_BOTH_LOOPS
def test_what_is_no_system_error_ends_everything_at_once(run: Any) -> None:
    attempts = Attempts(Script("silent"), Script("bug", 3), Script("silent"))
    with pytest.raises(ZeroDivisionError):
        run(attempts.first())
    assert attempts.leaves_nothing()


@ON_BOTH_LOOPS
def test_of_two_that_connect_in_one_moment_the_earlier_wins(run: Any) -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        told = Attempts()

        async def connect(address: int) -> int:
            told.tried.append(address)
            if len(told.tried) == 3:
                gate.set()
            await gate.wait()
            told.connected.add(address)
            return address

        winner = await first_connected(
            "abc",
            lambda name: connect("abc".index(name)),
            may_race=told.may_race,
            raced=told.raced,
            discard=told.discard,
            failed=told.failed,
            stagger=0.0,
        )
        assert winner == 0
        assert told.leaves_nothing(0)
        assert sorted(told.discarded) == [1, 2]
        assert told.failures == []

    run(scene())


@ON_BOTH_LOOPS
def test_an_address_started_after_the_winner_is_not_blamed(run: Any) -> None:
    attempts = Attempts(Script("silent"), Script("connected", 60), Script("silent"))
    assert run(attempts.first()) == 1
    assert attempts.tried == [0, 1, 2]
    assert attempts.failures == [(0, errno.ETIMEDOUT)]
    assert attempts.leaves_nothing(1)


@ON_BOTH_LOOPS
def test_one_extra_token_carries_one_extra_attempt_at_a_time(run: Any) -> None:
    refused = [Script("refused", 3)] * 4
    attempts = Attempts(Script("silent"), *refused, Script("connected", 3), spare=1)
    assert run(attempts.first()) == 5
    assert attempts.tried == [0, 1, 2, 3, 4, 5]
    assert attempts.leaves_nothing(5)


@ON_BOTH_LOOPS
def test_a_token_goes_back_as_soon_as_only_one_attempt_is_left(run: Any) -> None:
    async def scene() -> None:
        attempts = Attempts(Script("silent"), Script("refused", 2))
        task = asyncio.create_task(attempts.first())
        await attempts.told.wait()
        assert (attempts.extra, attempts.running) == (0, {0})
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert attempts.leaves_nothing()

    run(scene())


ENDS = st.sampled_from(["connected", "connected", "silent", *ERRORS])
SCRIPTS = st.builds(Script, ENDS, st.integers(0, 8), st.integers(0, 3))


@ON_BOTH_LOOPS
@settings(max_examples=100)
@given(
    scripts=st.lists(SCRIPTS, min_size=1, max_size=5),
    spare=st.integers(0, 4),
    cancel_at=st.lists(st.integers(0, 12), min_size=1, max_size=3),
)
def test_nothing_is_left_behind_wherever_it_is_cancelled(
    run: Any, scripts: list[Script], spare: int, cancel_at: list[int]
) -> None:
    async def scene() -> None:
        attempts = Attempts(*scripts, spare=spare)
        task = asyncio.create_task(attempts.first())
        is_cancelled = False
        for ticks in cancel_at:
            for _ in range(ticks):
                await asyncio.sleep(0)
            is_cancelled |= task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == is_cancelled, "a cancellation that came in time is obeyed"
        winner = None if task.cancelled() or task.exception() else task.result()
        assert attempts.leaves_nothing(winner)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scene())


@ON_BOTH_LOOPS
def test_nothing_is_left_behind_at_any_await_of_a_race(run: Any) -> None:
    """The same scene, cancelled one tick later each time, until it is too late."""

    async def scene(ticks: int) -> bool:
        attempts = Attempts(
            Script("silent", cleaning=2), Script("refused", 2), Script("connected", 9), spare=2
        )
        task = asyncio.create_task(attempts.first())
        for _ in range(ticks):
            await asyncio.sleep(0)
        is_too_late = task.done()
        task.cancel()
        await asyncio.wait([task])
        assert attempts.leaves_nothing(None if task.cancelled() else task.result())
        return is_too_late

    async def scenes() -> int:
        ticks = 0
        while not await scene(ticks):
            ticks += 1
        return ticks

    assert run(scenes()) > 10
