"""What may stand between a client and a server: TLS (`TlsFront`) and a forward proxy (`ForwardProxy`), on loopback.

with TlsFront(endpoint, certificate) as front, ForwardProxy(user="me:secret") as proxy:
    store = S3Store(bucket, endpoint_url=front.url)  # with HTTPS_PROXY=proxy.url
"""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from contextlib import suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Self
from urllib.parse import urlsplit

import trustme

PIECE_BYTES = 65_536
HEAD_BYTES_MAX = 65_536


class _Front(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port: int = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def serve(self, client: socket.socket) -> None:
        raise NotImplementedError


class _Handler(BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Front)
        with suppress(OSError):  # the client may go at any moment
            self.server.serve(self.request)


class TlsFront(_Front):
    """TLS before a server, with this certificate."""

    def __init__(self, endpoint: str, certificate: trustme.LeafCert) -> None:
        super().__init__()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._target = urlsplit(endpoint)
        self.url = f"https://127.0.0.1:{self.port}"

    def serve(self, client: socket.socket) -> None:
        with self._context.wrap_socket(client, server_side=True) as plain:
            _connect(plain, self._target.hostname, self._target.port)


class ForwardProxy(_Front):
    """A forward proxy: CONNECT, and whole URLs (http) one request per connection.

    Attributes:
        url: To set in HTTP_PROXY and HTTPS_PROXY, user and password included.
        asked: The first lines of the requests.
    """

    def __init__(self, user: str = "") -> None:
        super().__init__()
        self.asked: list[str] = []
        self.url = f"http://{user}@127.0.0.1:{self.port}" if user else f"http://127.0.0.1:{self.port}"
        self._wanted = base64.b64encode(user.encode()).decode()

    def serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES_MAX:
            piece = client.recv(PIECE_BYTES)
            if not piece:
                return
            head += piece
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split()
        self.asked.append(f"{method} {target}")
        if self._wanted and f"proxy-authorization: basic {self._wanted}".lower() not in head.decode("latin-1").lower():
            said = f"wanted {self._wanted}".encode()  # a careless proxy
            answer = f"HTTP/1.1 407 {said.decode()}\r\nContent-Length: {len(said)}\r\n\r\n".encode()
            client.sendall(answer + said)
            return
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            _connect(client, host, int(port))
            return
        whole = urlsplit(target)
        path = target.removeprefix(f"{whole.scheme}://{whole.netloc}")
        first = head.replace(target.encode(), path.encode(), 1).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        _connect(client, whole.hostname, whole.port, first)


def _connect(client: socket.socket, host: str | None, port: int | None, first: bytes = b"") -> None:
    """Pass on what comes, both ways, until both have ended."""
    with socket.create_connection((host or "", port or 0)) as server:
        server.sendall(first)
        back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
        back.start()
        _pass_on(client, server)
        back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(PIECE_BYTES):
            target.sendall(piece)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
