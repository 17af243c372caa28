"""A proxy before an S3 server that can be away, slow, or answer 500: requests and answers pass unchanged else."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse

# What belongs to one connection alone (RFC 9110, 7.6.1); all else is the caller's, signed or not.
PER_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"}
INTERNAL_ERROR = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"


class Proxy:
    """Listens on a loopback port of its own.

    Args:
        target: the server's address, http://host:port.

    Attributes:
        address: what a client calls in the server's place.
        delay_s: before each answer.
        num_failed: requests that were answered with 500.
    """

    def __init__(self, target: str) -> None:
        parsed = urlparse(target)
        self.target = (parsed.hostname or "", parsed.port or 80)
        self.delay_s = 0.0
        self.num_failed = 0
        self._fail: Callable[[str, str], bool] | None = None
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self._listen()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def fail_once(self, which: Callable[[str, str], bool]) -> None:
        """Answer 500 to the first request (method, path) that is meant, in the server's place."""
        self._fail = which

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Nothing listens, and what was connected is cut off."""
        self.close()
        try:
            yield
        finally:
            self._listen()

    def close(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server = None

    def _listen(self) -> None:
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def fails(self, method: str, path: str) -> bool:
        with self._lock:
            if self._fail is None or not self._fail(method, path):
                return False
            self._fail = None
            self.num_failed += 1
            return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A thread may sit in a connection that its client keeps open.
    block_on_close = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Proxy

    def setup(self) -> None:
        super().setup()
        with self.owner._lock:
            self.owner._connections.add(self.connection)

    def finish(self) -> None:
        with self.owner._lock:
            self.owner._connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        # Cut off in the middle: what `away` is for.
        with contextlib.suppress(OSError, http.client.HTTPException):
            super().handle()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.owner.delay_s)
        if self.owner.fails(self.command, self.path):
            self._answer(500, [("Content-Type", "application/xml")], INTERNAL_ERROR)
            return
        server = http.client.HTTPConnection(*self.owner.target, timeout=60)
        try:
            # The caller's own Host: the signature covers it.
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in PER_CONNECTION:
                    server.putheader(name, value)
            server.endheaders(body or None)
            answer = server.getresponse()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in PER_CONNECTION]
            self._answer(answer.status, headers, answer.read())
        finally:
            server.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815
