"""h2's connection, taught to blame one stream for what concerns one stream.

Owns: which faults end a stream and which the connection, what an answer's fields may be.
Does not own: sockets, requests (`multiplex`), the frames' grammar (h2).

Invariants: only a fault known to leave the compression tables and the connection's window
whole ends its stream alone, any other ends the connection; a GOAWAY does not keep the
streams that the server still serves from being read to their end; no frame longer than we
allow is waited for; our compression table stays small, whatever the server offers.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import h2.connection
import h2.events
import h2.exceptions
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame

if TYPE_CHECKING:
    from h2.config import H2Configuration
    from hyperframe.frame import Frame

__all__ = ["FrameState", "Violated", "what_is_wrong"]

TABLE = 4096
"""Bytes of fields that we keep to compress requests with, where the server offers more."""

_STATUS = re.compile(rb"[1-9][0-9]{2}")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE_END = re.compile(rb"[\r\n\0]")


class Violated:
    """The server broke a rule on one stream."""

    def __init__(self, stream_id: int, error: Exception) -> None:
        self.stream_id = stream_id
        self.error = error


class FrameState(h2.connection.H2Connection):
    """h2's connection, which keeps the fault of one stream to that stream.

    And which goes on after a GOAWAY, so that streams the server still serves end well.
    """

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        self.seen: list[Any] = []
        """Events not yet dispatched: h2 would lose those before an error."""
        self.culprit = 0
        """Stream of the frame that could not be taken."""

    @property
    def is_overlong(self) -> bool:
        """Whether a frame has begun that is too long: h2 says so only when it is whole."""
        begun = self.incoming_buffer._data[:3]
        return len(begun) == 3 and int.from_bytes(begun, "big") > self.max_inbound_frame_size

    def increment_flow_control_window(self, increment: int, stream_id: int | None = None) -> None:
        """For the connection only: streams have theirs from the settings."""
        if stream_id is None:
            super().increment_flow_control_window(increment)

    def _receive_frame(self, frame: Frame) -> list[Any]:
        is_last = isinstance(frame, GoAwayFrame)
        state, unsent = self.state_machine.state, self.data_to_send() if is_last else b""
        try:
            self.seen += super()._receive_frame(frame)
        except h2.exceptions.ProtocolError as error:
            self.seen += self._contained(frame, error)
        if is_last:
            self.state_machine.state = state
            self._data_to_send += unsent
        return []

    def _acknowledge_settings(self) -> list[Frame]:
        frames = super()._acknowledge_settings()
        if self.encoder.header_table_size > TABLE:
            self.encoder.header_table_size = TABLE
            self.encoder.table_size_changes[-2:] = [TABLE]
        return frames

    def _contained(self, frame: Frame, error: h2.exceptions.ProtocolError) -> list[Any]:
        """Reset the stream, unless more than the stream is broken: then raise."""
        self.culprit = frame.stream_id
        is_closed = self.state_machine.state is h2.connection.ConnectionState.CLOSED
        if is_closed or frame.stream_id not in self.streams or not self._spares(frame, error):
            raise error
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.acknowledge_received_data(
                getattr(frame, "flow_controlled_length", 0), frame.stream_id
            )
        return [Violated(frame.stream_id, error)]

    def _spares(self, frame: Frame, error: h2.exceptions.ProtocolError) -> bool:
        """Whether what is wrong with one stream leaves the others as they were.

        RFC 9113 §4.3: a header block that was not unpacked changes what later ones say, so
        a PUSH_PROMISE is never spared. §6.9.1: so is not the window of the connection.
        """
        if isinstance(error, h2.exceptions.InvalidBodyLengthError):
            return isinstance(frame, (DataFrame, HeadersFrame))
        if isinstance(error, h2.exceptions.FlowControlError):
            is_ours = self._inbound_flow_control_window_manager.current_window_size >= 0
            return isinstance(frame, DataFrame) and is_ours
        return isinstance(frame, HeadersFrame) and "content-length" in str(error)


def what_is_wrong(headers: list[tuple[bytes, bytes]]) -> str | None:
    """What is wrong with the fields of an answer; None: nothing."""
    statuses = [value for name, value in headers if name == b":status"]
    if len(statuses) != 1 or not _STATUS.fullmatch(statuses[0]):
        return "an answer without a status"
    for name, value in headers:
        if not name.startswith(b":") and not _NAME.fullmatch(name):
            return f"a field named {name[:40]!r}"
        if _LINE_END.search(value):
            return "a field with a line end or NUL in it"
    return None
