"""`RealtimeAdapter`: what carries the frames of a realtime session to a provider and back.

Rules:
1. An adapter does what it is told, once, or raises; any exception means that the connection is lost.
2. `receive` looks, it does not wait: nobody can send meanwhile.
3. It brings no content along: frames carry references, which it resolves by itself.
4. It is called only when the step is recorded, by one thread at a time.
"""

from __future__ import annotations

from typing import Protocol

from snapshots.realtime.values import RealtimeCloseReason, RealtimeFrame, RealtimeResponseId, RealtimeSessionState


class RealtimeAdapter(Protocol):
    """The connection of one realtime session."""

    def open(self, state: RealtimeSessionState) -> None:
        """Connect. `state.connection_id` names the connection."""
        ...

    def send(self, frame: RealtimeFrame) -> None:
        """Send a frame."""
        ...

    def receive(self) -> RealtimeFrame | None:
        """Return the next frame of the provider, None if there is none now."""
        ...

    def interrupt(self, response_id: RealtimeResponseId | None) -> None:
        """Make the provider stop: this response, or whatever it is at."""
        ...

    def restart(self, state: RealtimeSessionState) -> None:
        """Give the connection up, if there is one, and connect again as `state.connection_id`, from its cursors."""
        ...

    def close(self, reason: RealtimeCloseReason) -> None:
        """End the connection; with "host_owned_detach" leave it to the host instead."""
        ...
