"""A provider that is spoken to over a websocket on loopback, and the adapter that speaks to it.

A message is JSON. The first one of a connection names it; a frame is answered by its acknowledgement and, after that,
by an answer of the provider. The provider notes what reaches it, and can cut its connections without a word.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from snapshots.realtime import RealtimeCloseReason, RealtimeFrame, RealtimeResponseId, RealtimeSessionState

ACKNOWLEDGED_SECONDS = 30  # far more than loopback needs
RECEIVE_SECONDS = 0.2


@dataclass
class Provider:
    """What reached it.

    Attributes:
        url: Where it listens.
        frames: Connection and id of each frame, in order.
        interrupts: How often it was interrupted.
        cut_at: Ids of frames at which it cuts the connection: on receipt, before it acknowledges.
    """

    url: str = ""
    frames: list[tuple[str, str]] = field(default_factory=list)
    interrupts: int = 0
    cut_at: set[str] = field(default_factory=set)
    _open: list[ServerConnection] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def got(self) -> list[str]:
        with self._lock:
            return [frame_id for _, frame_id in self.frames]

    def serve(self, connection: ServerConnection) -> None:
        with suppress(ConnectionClosed, OSError):
            name = json.loads(connection.recv())["connection"]
            self._open.append(connection)
            for text in connection:
                self._answer(connection, name, json.loads(text))

    def _answer(self, connection: ServerConnection, name: str, message: dict[str, str]) -> None:
        if "interrupt" in message:
            self.interrupts += 1
            return
        frame_id = message["frame"]
        with self._lock:
            self.frames.append((name, frame_id))
        if frame_id in self.cut_at:
            self.cut_at.discard(frame_id)
            cut(connection)
            return
        connection.send(json.dumps({"acknowledged": frame_id}))
        connection.send(json.dumps({"answer": f"answer-{frame_id}", "ref": f"provider:{frame_id}"}))

    def cut_all(self) -> None:
        """Cut every connection, as a provider that is gone."""
        for connection in self._open:
            cut(connection)
        self._open.clear()


def cut(connection: ServerConnection) -> None:
    """End a connection without a closing handshake; its own thread closes the socket, and would sleep on if we did."""
    with suppress(OSError):
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.socket.shutdown(socket.SHUT_RDWR)


@contextmanager
def provider_running() -> Iterator[Provider]:
    """Run a provider on a free port while the block runs."""
    provider = Provider()
    with serve(provider.serve, "127.0.0.1", 0) as server:
        host, port = server.socket.getsockname()[:2]
        provider.url = f"ws://{host}:{port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield provider
        finally:
            provider.cut_all()
            server.shutdown()
            thread.join(timeout=30)
    assert not thread.is_alive()


class WebsocketAdapter:
    """An adapter for `Provider`. A frame is sent when it is acknowledged.

    Attributes:
        url: Of the provider.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._connections = ExitStack()
        self._socket: ClientConnection | None = None
        self._answers: deque[RealtimeFrame] = deque()

    @property
    def socket(self) -> ClientConnection:
        assert self._socket is not None, "open it first"
        return self._socket

    def open(self, state: RealtimeSessionState) -> None:
        """Connect, and say which connection this is."""
        self._socket = self._connections.enter_context(connect(self.url, close_timeout=1))
        self._socket.send(json.dumps({"connection": state.connection_id.value}))

    def send(self, frame: RealtimeFrame) -> None:
        """Send a frame, and wait until it is acknowledged."""
        self.socket.send(json.dumps({"frame": frame.frame_id.value, "refs": list(frame.content_refs)}))
        while True:
            message = json.loads(self.socket.recv(timeout=ACKNOWLEDGED_SECONDS))
            if message.get("acknowledged") == frame.frame_id.value:
                return
            self._take(message)

    def receive(self) -> RealtimeFrame | None:
        """Return the next answer."""
        if not self._answers:
            with suppress(TimeoutError):
                self._take(json.loads(self.socket.recv(timeout=RECEIVE_SECONDS)))
        return self._answers.popleft() if self._answers else None

    def _take(self, message: dict[str, str]) -> None:
        if "answer" in message:
            self._answers.append(RealtimeFrame.incoming(message["answer"], content_refs=[message["ref"]]))

    def interrupt(self, response_id: RealtimeResponseId | None) -> None:
        """Ask the provider to stop."""
        self.socket.send(json.dumps({"interrupt": "" if response_id is None else response_id.value}))

    def restart(self, state: RealtimeSessionState) -> None:
        """Leave the old connection, whatever is left of it, and make another."""
        self.end()
        self.open(state)

    def close(self, reason: RealtimeCloseReason) -> None:  # noqa: ARG002  it ends in any case
        """Close the connection."""
        self.end()

    def end(self) -> None:
        """Leave the connection, if there is one."""
        self._socket = None
        self._connections.close()
