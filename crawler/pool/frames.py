"""h2's connection, taught to blame one stream for what concerns one stream.

Owns: which faults end a stream and which the connection, what an answer's fields may be.
Does not own: sockets, requests (`multiplex`), the frames' grammar (h2).

Invariants: a fault that leaves the compression tables whole ends its stream only; a
GOAWAY does not keep the streams that the server still serves from being read to their
end; no frame longer than we allow is waited for.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import h2.connection
import h2.events
import h2.exceptions
from hyperframe.frame import GoAwayFrame

if TYPE_CHECKING:
    from h2.config import H2Configuration
    from hyperframe.frame import Frame

__all__ = ["FrameState", "Violated", "what_is_wrong"]

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

    def _contained(self, frame: Frame, error: h2.exceptions.ProtocolError) -> list[Any]:
        """Reset the stream, unless more than the stream is broken: then raise."""
        self.culprit = frame.stream_id
        is_torn = isinstance(error, h2.exceptions.DenialOfServiceError) or error.__cause__
        is_closed = self.state_machine.state is h2.connection.ConnectionState.CLOSED
        if is_torn or is_closed or frame.stream_id not in self.streams:
            raise error
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.acknowledge_received_data(
                getattr(frame, "flow_controlled_length", 0), frame.stream_id
            )
        return [Violated(frame.stream_id, error)]


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
