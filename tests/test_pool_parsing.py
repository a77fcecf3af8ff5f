"""Answers read from bytes: the same however they are cut, the same as h11 reads them."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crawler.errors import FetchError
from crawler.pool import HeadLimits
from crawler.pool.parsing import Phase, Reading

NAMES = st.sampled_from(
    (b"Server", b"X-One", b"x_two", b"ETAG", b"Set-Cookie", b"Content-Type", b"!#$%&'*+.^`|~")
)
VALUES = st.binary(max_size=12).map(
    lambda raw: bytes(0x21 + byte % 0x5E for byte in raw).replace(b"!", b" ").strip()
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=4)
CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=4)
CUTS = st.lists(st.integers(0, 400), max_size=8)
LIMITS = HeadLimits(size=4096, fields=20, interim=8)
CODES = {"protocol", "truncated", "reset", "head-limit"}


class Made(NamedTuple):
    """An answer, and what must be read from it."""

    data: bytes
    method: bytes
    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    lasts: bool


class Read(NamedTuple):
    """An answer as somebody reads it; `fault` empty: it is whole."""

    fault: str
    status: int = 0
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


@st.composite
def answers(draw: st.DrawFn) -> Made:
    """Valid by RFC 9112, in every framing."""
    status = draw(st.sampled_from((200, 200, 201, 204, 206, 301, 304, 404, 500, 599, 999)))
    method = draw(st.sampled_from((b"GET", b"GET", b"GET", b"HEAD")))
    fields = draw(FIELDS)
    chunks = draw(CHUNKS)
    framing = draw(st.sampled_from(("length", "chunked", "close")))
    is_closing = framing != "close" and draw(st.booleans())
    if framing == "length":
        fields.append((b"Content-Length", b"%d" % sum(map(len, chunks))))
    elif framing == "chunked":
        fields.append((b"Transfer-Encoding", draw(st.sampled_from((b"chunked", b"Chunked")))))
    if is_closing:
        fields.append((b"Connection", b"close"))
    interim = draw(st.lists(st.sampled_from((100, 102, 103)), max_size=2))
    parts = [b"HTTP/1.1 %d Hold\r\nLink: <a>\r\n\r\n" % early for early in interim]
    parts.append(b"HTTP/1.1 %d %b\r\n" % (status, draw(st.sampled_from((b"OK", b"", b"No way")))))
    parts += [b"%b: %b\r\n" % field for field in fields]
    parts.append(b"\r\n")
    is_bodiless = method == b"HEAD" or status in (204, 304)
    if is_bodiless:
        chunks = []
    elif framing == "chunked":
        extension = draw(st.sampled_from((b"", b";a=b", b';a="b c"')))
        parts += [b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks]
        trailers = draw(FIELDS)
        parts += [b"0\r\n", *(b"%b: %b\r\n" % field for field in trailers), b"\r\n"]
    else:
        parts += chunks
    lasts = not is_closing and (is_bodiless or framing != "close")
    return Made(b"".join(parts), method, status, fields, b"".join(chunks), lasts)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(at) if a < b]


def reading_of(parts: list[bytes], method: bytes = b"GET", limits: HeadLimits = LIMITS) -> Reading:
    """What a connection would do: feed until the end, then say that it has come."""
    reading = Reading(limits, is_bodiless=method == b"HEAD")
    for part in parts:
        before = reading.size
        reading.feed(part)
        assert reading.size - before <= len(part), "more body than bytes"
        if reading.error is not None or reading.phase is Phase.WHOLE:
            break
    reading.end(is_clean=True)
    return reading


def by_us(parts: list[bytes], method: bytes = b"GET") -> Read:
    reading = reading_of(parts, method)
    if reading.error is not None:
        assert isinstance(reading.error, FetchError)
        return Read(str(reading.error))
    fields = tuple((name.lower(), value) for name, value in reading.headers)
    return Read("", reading.status, fields, b"".join(reading.parts))


def by_h11(parts: list[bytes], method: bytes = b"GET") -> Read:
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=LIMITS.size)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a.test")]))
    client.send(h11.EndOfMessage())
    head, body = h11.Response(status_code=200, headers=[]), b""
    try:
        for part in [*parts, b""]:
            client.receive_data(part)
            while (event := client.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    return Read("", head.status_code, tuple(head.headers), body)
                elif isinstance(event, h11.ConnectionClosed):
                    return Read("closed without an answer")
    except h11.RemoteProtocolError as error:
        return Read(str(error) or "refused")
    return Read("paused")


@given(answers(), CUTS)
def test_an_answer_is_the_same_however_it_is_cut_and_as_h11_reads_it(
    made: Made, cuts: list[int]
) -> None:
    fields = tuple((name.lower(), value) for name, value in made.fields)
    expected = Read("", made.status, fields, made.body)
    assert by_us([made.data], made.method) == expected
    assert by_us(pieces(made.data, cuts), made.method) == expected
    theirs = by_h11(pieces(made.data, cuts), made.method)
    assert theirs._replace(fields=()) == expected._replace(fields=())
    assert [name for name, _ in theirs.fields] == [name for name, _ in expected.fields]


@given(answers(), CUTS)
def test_a_connection_lasts_as_the_answer_says_unless_something_is_left_over(
    made: Made, cuts: list[int]
) -> None:
    reading = reading_of(pieces(made.data, cuts), made.method)
    assert not reading.is_surplus
    ends_like_more = made.body.endswith((b"\r", b"\n"))
    assert reading.is_lasting == made.lasts or (ends_like_more and not reading.is_lasting)


@given(
    answers().filter(lambda made: made.lasts),
    st.binary(min_size=1, max_size=20).filter(lambda more: more.strip(b"\r\n")),
)
def test_what_follows_an_answer_in_one_piece_is_surplus_and_no_part_of_it(
    made: Made, more: bytes
) -> None:
    reading = reading_of([made.data + more], made.method)
    assert reading.is_surplus
    assert (reading.status, b"".join(reading.parts)) == (made.status, made.body)


@pytest.mark.parametrize("more", [b"\n", b"\r", b"\r\n", b"\n\r\n"], ids=ascii)
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\n\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
    ids=["204", "no-bytes", "bytes", "line-ends", "chunks"],
)
def test_line_ends_after_an_answer_are_surplus_too(answer: bytes, more: bytes) -> None:
    assert not reading_of([answer]).is_surplus
    read = reading_of([answer + more])
    assert read.is_surplus or not read.is_lasting


@pytest.mark.parametrize("value", [b"\r", b" \r", b"a\r"], ids=ascii)
def test_a_lone_cr_begins_no_field(value: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nX:" + value + b"Set-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    assert b"Set-Cookie" not in [name for name, _ in reading_of([head]).headers]


@given(answers(), st.integers(0, 400), CUTS)
def test_an_answer_that_is_cut_off_is_no_whole_one(made: Made, at: int, cuts: list[int]) -> None:
    names = [name for name, _ in made.fields]
    is_framed = b"Content-Length" in names or b"Transfer-Encoding" in names
    data = made.data[: at % len(made.data)]
    read = by_us(pieces(data, cuts), made.method)
    assert read.fault or not is_framed
    if read.fault:
        assert read.fault.startswith(("reset", "truncated"))


# Bytes that are no answer


SHREDS = st.sampled_from(
    b"""HTTP/1.1 200 OK\r
HTTP/1.0 204 \r
HTTP/1.1 100 \r
Content-Length: 5\r
Content-Length: -1\r
Content-Length: 9999999999999999
Transfer-Encoding: chunked\r
Transfer-Encoding: gzip, chunked\r
Connection: upgrade\r\nUpgrade: x\r
 folded\r
: \0
ffffffffffffffff\r
5\r\nhello\r
0\r
\r

""".splitlines(keepends=True)
)


@given(st.lists(SHREDS | st.binary(max_size=60), max_size=30), st.booleans())
@example([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", b"\0"], False)
@example([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"hello" * 40], False)
def test_no_bytes_raise_or_leave_an_answer_between_whole_and_failed(
    parts: list[bytes], is_clean: bool
) -> None:
    limits = HeadLimits(size=200, fields=5, interim=2)
    reading = Reading(limits)
    fed = 0
    for part in parts:
        reading.feed(part)
        fed += len(part)
        assert sum(map(len, reading.parts)) == reading.size <= fed
        if reading.phase is Phase.HEAD:
            assert reading.size == 0
            assert fed <= limits.size or reading.error is not None
        if reading.error is not None or reading.phase is Phase.WHOLE:
            break
    reading.end(is_clean=is_clean)
    kept = sum(len(name) + len(value) for name, value in reading.headers)
    assert kept + len(reading.reason) <= limits.size
    if reading.error is None:
        assert reading.phase is Phase.WHOLE
        assert 200 <= reading.status <= 999
        assert len(reading.headers) <= limits.fields
    else:
        assert isinstance(reading.error, FetchError)
        assert reading.error.code in CODES


@given(st.integers(1, 100), st.sampled_from((b"a: b%b\r\n", b"a%b: b\r\n")))
def test_trailers_are_not_kept_and_end(size: int, form: bytes) -> None:
    reading = Reading(LIMITS)
    reading.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    trailer = form % (b"x" * size)
    fed = 0
    while reading.error is None:
        reading.feed(trailer)
        fed += len(trailer)
        assert fed <= LIMITS.size + len(trailer)
    assert (len(reading.headers), reading.parts) == (1, [])
    assert isinstance(reading.error, FetchError)
    assert reading.error.code == "head-limit"
    assert fed > LIMITS.size


# Answers with something wrong in them, beside h11

LENIENT = (
    "no response line received",  # empty lines before the answer
    "malformed chunk footer",  # LF alone after a chunk's bytes
    "illegal chunk header",  # LF alone, spaces after a chunk's size
    "Only Transfer-Encoding",  # in an interim answer
    "illegal status line",  # odd words after the status, or in an interim answer
    "illegal header line",  # CR in a value, space before a colon, odd names
    "continuation line at start of headers",
    "multiple Transfer-Encoding headers",  # all of them chunked
    "Error parsing Content-Length",
    "conflicting Content-Length",
    "bad Content-Length",
)
"""What h11 refuses and we may read, as browsers do."""
STRICT = (
    "Data after `Connection: close`",  # the field was in an interim answer
    "chunk extensions",
    "after chunk size",
    "Invalid HTTP version",
    "Duplicate Content-Length",  # equal ones after an interim answer
    "NUL in",
    "Unexpected whitespace after header value",  # folded trailers
    "Invalid header value char",  # control characters in trailers
    "after header value",  # CR without LF
    "transfer coding",
    "Content-Length can't be present with",
    "Transfer-Encoding can't be present with",
)
"""What we refuse and h11 may read."""


@st.composite
def mutated(draw: st.DrawFn) -> Made:
    """A valid answer with a few bytes changed, lost, doubled or moved."""
    made = draw(answers())
    data = bytearray(made.data)
    for _ in range(draw(st.integers(1, 3))):
        at, span = draw(st.integers(0, 400)) % (len(data) + 1), draw(st.integers(1, 20))
        kind = draw(st.sampled_from(("lose", "double", "put", "replace", "line")))
        if kind == "lose":
            del data[at : at + span]
        elif kind == "double":
            data[at:at] = data[at : at + span]
        elif kind == "line":
            lines = bytes(data).split(b"\n")
            lines.insert(span % len(lines), lines[at % len(lines)])
            data = bytearray(b"\n".join(lines))
        else:
            odd = draw(st.sampled_from(b"\r\n :;,0a1\x00\t\xff"))
            data[at : at + (kind == "replace")] = bytes((odd,))
    return made._replace(data=bytes(data))


def check_beside_h11(made: Made) -> None:
    ours, theirs = by_us([made.data], made.method), by_h11([made.data], made.method)
    if ours.fault and theirs.fault:
        return
    if ours.fault:
        assert any(words in ours.fault for words in STRICT), (ours, theirs)
    elif theirs.fault:
        assert theirs.fault.startswith(LENIENT), (ours, theirs)
    else:
        assert (ours.status, ours.body) == (theirs.status, theirs.body)


@given(mutated())
def test_what_is_odd_is_read_as_h11_reads_it_but_for_what_is_listed(made: Made) -> None:
    check_beside_h11(made)


@pytest.mark.soak
@settings(max_examples=30_000)
@given(mutated())
def test_what_is_odd_is_read_as_h11_reads_it_for_long(made: Made) -> None:
    check_beside_h11(made)
