"""Content codings: round trips, broken ends, bombs."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from itertools import pairwise

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.errors import FetchError
from crawler.pool.decode import STAGES, STEP, BodyDecoder, parse_codings


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACK = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
}
SAMPLE = b"".join(b"%d little pages, " % n for n in range(3000))


def decode(codings: tuple[str, ...], data: bytes, size: int, limit: int = 10**8) -> bytes:
    decoder = BodyDecoder(codings, limit)
    parts = [decoder.feed(data[at : at + size]) for at in range(0, len(data), size)]
    decoder.finish()
    return b"".join(parts)


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


@settings(max_examples=150, deadline=None)
@given(
    part=st.binary(max_size=400),
    times=st.sampled_from([1, 300, 5000]),
    codings=st.lists(st.sampled_from(sorted(PACK)), max_size=5),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=8),
)
def test_stacked_codings_come_back_whatever_the_chunks(
    part: bytes, times: int, codings: list[str], cuts: list[int]
) -> None:
    body = part * times
    packed = body
    for name in codings:
        packed = PACK[name](packed)
    decoder = BodyDecoder(parse_codings(", ".join(codings)), 10**7)
    assert b"".join(decoder.feed(part) for part in chunks(packed, cuts)) == body
    decoder.finish()
    assert decoder.size == len(body)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_raw_deflate_and_gzip_members_are_understood(size: int) -> None:
    assert decode(("deflate",), raw_deflate(SAMPLE), size) == SAMPLE
    members = gzip.compress(SAMPLE) + gzip.compress(b"") + gzip.compress(b"end")
    assert decode(("gzip",), members, size) == SAMPLE + b"end"
    assert decode(("gzip",), gzip.compress(SAMPLE) + b"\0\0\0\0", size) == SAMPLE


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw", "br"])
@pytest.mark.parametrize("sixteenth", range(1, 16))
def test_a_coding_that_breaks_off_is_truncated(coding: str, sixteenth: int) -> None:
    packed = raw_deflate(SAMPLE) if coding == "raw" else PACK[coding](SAMPLE)
    name = "deflate" if coding == "raw" else coding
    with pytest.raises(FetchError) as caught:
        decode((name,), packed[: len(packed) * sixteenth // 16], 1000)
    assert caught.value.code == "truncated"


def test_a_second_member_that_breaks_off_is_truncated() -> None:
    with pytest.raises(FetchError, match="broke off"):
        decode(("gzip",), gzip.compress(SAMPLE) + gzip.compress(SAMPLE)[:-9], 5000)


@pytest.mark.parametrize("coding", sorted(PACK))
def test_a_bomb_stops_at_the_limit_and_costs_little_memory(coding: str) -> None:
    bomb = PACK[coding](bytes(30_000_000))
    tracemalloc.start()
    with pytest.raises(FetchError) as caught:
        decode((coding,), bomb, 1 << 20, limit=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.code == "too-large"
    assert "1000000" in str(caught.value)
    assert "body.decoded" in str(caught.value)
    assert peak < 3_000_000


@pytest.mark.parametrize("size", [60_000, 100_000, 1_000_000])
@pytest.mark.parametrize("coding", sorted(PACK))
def test_a_long_run_of_one_byte_comes_back_in_small_steps(coding: str, size: int) -> None:
    stage = STAGES[coding]()
    pieces = list(stage.feed(PACK[coding](bytes(size))))
    assert b"".join(pieces) == bytes(size)
    assert max(map(len, pieces)) <= STEP
    assert stage.has_ended()


def test_a_bomb_inside_a_stack_stops_too() -> None:
    empty_members = gzip.compress(b"") * 200_000
    with pytest.raises(FetchError) as caught:
        decode(("gzip", "gzip"), gzip.compress(empty_members), 1 << 20, limit=100_000)
    assert caught.value.code == "too-large"


@pytest.mark.parametrize("coding", sorted(PACK))
def test_garbage_is_a_broken_coding(coding: str) -> None:
    with pytest.raises(FetchError) as caught:
        decode((coding,), b"\xff<html>this is not packed at all</html>" * 9, 50)
    assert caught.value.code == "decode"


def test_identity_passes_the_same_object_and_is_bounded() -> None:
    decoder = BodyDecoder((), 10)
    chunk = b"12345678"
    assert decoder.feed(chunk) is chunk
    with pytest.raises(FetchError, match="16 seen"):
        decoder.feed(chunk)


def test_an_empty_body_needs_no_end_of_its_coding() -> None:
    for name in PACK:
        decoder = BodyDecoder((name,), 10)
        assert decoder.feed(b"") == b""
        decoder.finish()
        assert decoder.size == 0


def test_headers_name_the_codings() -> None:
    assert parse_codings("") == parse_codings("identity") == ()
    assert parse_codings("X-GZIP , br,identity") == ("gzip", "br")
    with pytest.raises(FetchError, match="unknown"):
        parse_codings("gzip, rot13")
    with pytest.raises(FetchError, match="limit is 5"):
        parse_codings(", ".join(["gzip"] * 6))
