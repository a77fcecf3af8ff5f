"""Content codings undone piece by piece, never more than 64 KiB out of a step.

Owns: gzip (RFC 1952, several members), deflate (RFC 1950, and raw RFC 1951 as browsers
accept), br (RFC 7932), up to five of them stacked (RFC 9110 §8.4), and the decoded bound.
Does not own: the bytes on the wire and their bound, character sets.

Invariants: memory is bounded by one step per coding, whatever the input; a coding that
did not end is an error at `finish`; what follows the end of a coding is ignored, as
browsers do, except a further gzip member.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

import brotli

from crawler.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

__all__ = ["ACCEPT_ENCODING", "MAX_CODINGS", "STEP", "BodyDecoder", "parse_codings"]

ACCEPT_ENCODING = "gzip, deflate, br"
"""What to ask for: all that can be undone."""
MAX_CODINGS = 5
STEP = 64 * 1024
"""Most bytes that one step puts out."""
BROTLI_STEP = 32_000
"""Brotli puts out whole buffers: 32 KiB below this bound, 96 KiB from 32 KiB on."""

GZIP_MAGIC = b"\x1f\x8b"


def parse_codings(header: str) -> tuple[str, ...]:
    """The codings of a Content-Encoding header in the order they were applied.

    Empty: identity. Raises FetchError: `decode` for an unknown coding, `too-large` for
    more than MAX_CODINGS.
    """
    names = (name.strip().lower() for name in header.split(","))
    codings = tuple(ALIASES.get(name, name) for name in names if name not in ("", "identity"))
    if len(codings) > MAX_CODINGS:
        raise FetchError(
            "too-large", f"{len(codings)} content codings, the limit is {MAX_CODINGS} (codings)"
        )
    for name in codings:
        if name not in STAGES:
            raise FetchError("decode", f"unknown Content-Encoding {name!r}")
    return codings


class _Stage(Protocol):
    """One coding being undone."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decoded pieces of at most STEP bytes; must be exhausted before the next call."""
        ...

    def has_ended(self) -> bool:
        """True when the coding's own end was seen, or nothing ever came."""
        ...


class _Inflate:
    """gzip or deflate."""

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._head = b""
        self._zlib: zlib._Decompress | None = None
        self._is_first = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._zlib is None:
                self._head += data
                if not self._begin():
                    return
                data, self._head = self._head, b""
            assert self._zlib is not None
            piece = self._zlib.decompress(data, STEP)
            data = self._zlib.unconsumed_tail
            if piece:
                yield piece
            if self._zlib.eof:
                data = self._zlib.unused_data
                self._zlib, self._is_first = None, False
            elif piece and not data:
                data = yield from self._drain()

    def _drain(self) -> Generator[bytes, None, bytes]:
        """A full step may leave output inside zlib although all input was taken."""
        assert self._zlib is not None
        while piece := self._zlib.decompress(b"", STEP):
            yield piece
        if not self._zlib.eof:
            return b""
        rest = self._zlib.unused_data
        self._zlib, self._is_first = None, False
        return rest

    def _begin(self) -> bool:
        """Start a member; False: more bytes are needed, or what comes is not ours."""
        if len(self._head) < 2:
            return False
        if not self._is_first and not (self._is_gzip and self._head[:2] == GZIP_MAGIC):
            self._head = b"\0"  # whatever follows now can never begin a member
            return False
        is_zlib = self._head[0] & 15 == 8 and int.from_bytes(self._head[:2], "big") % 31 == 0
        wbits = 16 + zlib.MAX_WBITS if self._is_gzip else zlib.MAX_WBITS
        self._zlib = zlib.decompressobj(wbits if self._is_gzip or is_zlib else -zlib.MAX_WBITS)
        return True

    def has_ended(self) -> bool:
        return self._zlib is None and not (self._is_first and self._head)


class _Brotli:
    """br."""

    def __init__(self) -> None:
        self._brotli = brotli.Decompressor()
        self._is_fresh = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._is_fresh = False
        while not self._brotli.is_finished():
            piece: bytes = self._brotli.process(data, output_buffer_limit=BROTLI_STEP)
            data = b""
            if not piece:  # only this says that nothing is held back
                return
            yield piece

    def has_ended(self) -> bool:
        return self._is_fresh or bool(self._brotli.is_finished())


STAGES: dict[str, Callable[[], _Stage]] = {
    "gzip": lambda: _Inflate(is_gzip=True),
    "deflate": lambda: _Inflate(is_gzip=False),
    "br": _Brotli,
}
ALIASES = {"x-gzip": "gzip"}


class BodyDecoder:
    """Undoes the codings of one body.

    `codings` as `parse_codings` gives them; `limit` bounds the decoded bytes. Codings
    inside a stack may grow an eighth and one step beyond it, as packed data may.
    """

    def __init__(self, codings: Sequence[str], limit: int) -> None:
        self._stages: list[_Stage] = [STAGES[name]() for name in reversed(codings)]
        self._sizes = [0] * len(self._stages)
        self._limit = limit
        self.size = 0
        """Decoded bytes so far."""

    def __repr__(self) -> str:
        return f"<BodyDecoder {len(self._stages)} codings, {self.size}/{self._limit} bytes>"

    def feed(self, chunk: bytes) -> bytes:
        """The decoded bytes of the body's next chunk.

        Raises FetchError: `decode`, or `too-large` as soon as the limit is passed.
        """
        if not chunk:
            return b""
        if not self._stages:
            self.size += len(chunk)
            if self.size > self._limit:
                raise self._too_large(self.size)
            return chunk
        try:
            return b"".join(self._run(0, chunk))
        except (zlib.error, brotli.error) as error:
            raise FetchError("decode", f"broken content coding: {error}") from error

    def finish(self) -> None:
        """The body has ended. Raises FetchError (`truncated`) when a coding has not."""
        if not all(stage.has_ended() for stage in self._stages):
            raise FetchError("truncated", f"a content coding broke off after {self.size} bytes")

    def _run(self, depth: int, data: bytes) -> Iterator[bytes]:
        is_last = depth == len(self._stages) - 1
        bound = self._limit if is_last else self._limit + self._limit // 8 + STEP
        for piece in self._stages[depth].feed(data):
            self._sizes[depth] += len(piece)
            if self._sizes[depth] > bound:
                raise self._too_large(self._sizes[depth])
            if is_last:
                self.size = self._sizes[depth]
                yield piece
            else:
                yield from self._run(depth + 1, piece)

    def _too_large(self, seen: int) -> FetchError:
        return FetchError(
            "too-large",
            f"the decoded body passed {self._limit} bytes ({seen} seen); raise body.decoded",
        )
