"""`FaultProxy`: a proxy in front of a real S3 server that loses, delays, cuts and replaces answers on the wire.

Rules:
1. It understands as much HTTP/1.1 as boto3 and the servers of this suite speak: bodies with a Content-Length.
2. A request is recorded as it came, before anything is done to it. 3. It listens on loopback only.

    with FaultProxy(endpoint) as proxy:
        proxy.on("PUT", "heads/", nth=2, action=DropAnswer())
        store = open_store(new_bucket_url(endpoint).replace(endpoint, proxy.url))
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import BinaryIO, Self
from urllib.parse import unquote, urlsplit

STALL_SECONDS_MAX = 60.0
_NOT_PASSED_ON = frozenset({"connection", "expect", "transfer-encoding", "keep-alive"})


@dataclass(frozen=True, slots=True)
class DropBefore:
    """Close the connection; the server never hears of the request."""


@dataclass(frozen=True, slots=True)
class DropAnswer:
    """Pass the request on, then close the connection without an answer."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Close the connection, and pass the request on only at `release()`."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Pass the request on if `forward`, then keep the client waiting until the proxy is closed."""

    forward: bool = False


@dataclass(frozen=True, slots=True)
class CutBody:
    """Announce the whole body of the answer, send `kept_bytes` of it, close."""

    kept_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer with this error, after passing the request on if `forward`."""

    status: int
    code: str
    forward: bool = False


Action = DropBefore | DropAnswer | Hold | Stall | CutBody | Answer


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came over the wire. `target` is path and query, as sent; header names are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def matches(self, method: str, part: str) -> bool:
        """Say whether it has this method ("*": any) and `part` in path and query, taken literally or decoded."""
        return method in ("*", self.method) and (part in self.target or part in unquote(self.target))


@dataclass(slots=True)
class _Rule:
    method: str
    part: str
    action: Action
    nth: int
    times: int | None
    seen: int = 0

    def due(self) -> bool:
        self.seen += 1
        behind = self.seen - self.nth
        return behind >= 0 and (self.times is None or behind < self.times)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class FaultProxy:
    """A proxy on a free loopback port, in front of `endpoint`; a context manager.

    Attributes:
        url: Where it listens.
        requests: What came, oldest first.
    """

    def __init__(self, endpoint: str) -> None:
        self.requests: list[Seen] = []
        self._target = urlsplit(endpoint).netloc
        self._rules: list[_Rule] = []
        self._held: list[Seen] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        # A blocked accept() is woken by shutdown, not by close.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(STALL_SECONDS_MAX)
        self._listener.close()

    def on(self, method: str, part: str = "", *, action: Action, nth: int = 1, times: int | None = 1) -> None:
        """Do `action` to the nth request (and the following, `times` in all) of this method ("*": any).

        `part` must be contained in path and query.
        """
        with self._lock:
            self._rules.append(_Rule(method, part, action, nth, times))

    def seen(self, method: str, part: str = "") -> list[Seen]:
        """Return the requests so far of this method ("*": any) whose path and query contain `part`."""
        with self._lock:
            return [one for one in self.requests if one.matches(method, part)]

    def release(self) -> list[int]:
        """Pass on what was held, oldest first; return the status of each answer."""
        with self._lock:
            held, self._held = self._held, []
        return [self._forward(request).status for request in held]

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            with self._lock:
                self._clients.add(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            # The client may go at any moment; that is no failure of the proxy.
            with client, client.makefile("rb") as source, suppress(OSError, _Closed):
                while not self._closing.is_set():
                    self._handle(client, self._receive(client, source))
        finally:
            with self._lock:
                self._clients.discard(client)

    def _receive(self, client: socket.socket, source: BinaryIO) -> Seen:
        words = source.readline(65_537).decode("latin-1").split()
        if len(words) != 3:
            raise _Closed
        headers = {name.lower(): value for name, value in http.client.parse_headers(source).items()}
        if headers.get("expect", "").lower() == "100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        announced = int(headers.get("content-length", 0))
        body = source.read(announced)
        if len(body) < announced:  # whoever sent it is gone; a server would wait for the rest
            raise _Closed
        request = Seen(words[0], words[1], MappingProxyType(headers), body)
        with self._lock:
            self.requests.append(request)
        return request

    def _handle(self, client: socket.socket, request: Seen) -> None:
        match self._choose(request):
            case None:
                _send(client, request, self._forward(request))
                return
            case DropAnswer():
                self._forward(request)
            case Hold():
                with self._lock:
                    self._held.append(request)
            case Stall(forward):
                if forward:
                    self._forward(request)
                self._closing.wait(STALL_SECONDS_MAX)
            case CutBody(kept_bytes):
                _send(client, request, self._forward(request), kept_bytes)
            case Answer(status, code, forward):
                if forward:
                    self._forward(request)
                _send(client, request, _error_reply(status, code))
                return
        raise _Closed

    def _choose(self, request: Seen) -> Action | None:
        with self._lock:
            matching = [rule for rule in self._rules if request.matches(rule.method, rule.part)]
            due = [rule for rule in matching if rule.due()]
        return due[0].action if due else None

    def _forward(self, request: Seen) -> _Reply:
        connection = http.client.HTTPConnection(self._target, timeout=STALL_SECONDS_MAX)
        try:
            connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name not in _NOT_PASSED_ON:
                    connection.putheader(name, value)
            connection.putheader("Connection", "close")
            connection.endheaders(request.body)
            answer = connection.getresponse()
            headers = [pair for pair in answer.getheaders() if pair[0].lower() not in _NOT_PASSED_ON]
            return _Reply(answer.status, answer.reason, headers, answer.read())
        finally:
            connection.close()


class _Closed(Exception):  # noqa: N818  a way out, not an error
    """This connection is done with."""


def _error_reply(status: int, code: str) -> _Reply:
    body = f"<Error><Code>{code}</Code><Message>said by the proxy</Message></Error>".encode()
    return _Reply(status, code, [("Content-Type", "application/xml")], body)


def _send(client: socket.socket, request: Seen, reply: _Reply, kept_bytes: int | None = None) -> None:
    head = [f"HTTP/1.1 {reply.status} {reply.reason}"]
    announced = [pair for pair in reply.headers if pair[0].lower() == "content-length"]
    length = announced[0][1] if request.method == "HEAD" and announced else str(len(reply.body))
    head += [f"{name}: {value}" for name, value in reply.headers if name.lower() != "content-length"]
    head += [f"Content-Length: {length}", "", ""]
    body = b"" if request.method == "HEAD" else reply.body[:kept_bytes]
    client.sendall("\r\n".join(head).encode("latin-1") + body)
