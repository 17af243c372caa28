"""A proxy before an S3 server that does what networks and servers do on bad days."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse


class Faults:
    """What happens to the next requests, in turn: 'pass', 'refuse', 'error' (500), 'lose' (done, its answer lost).

    Attributes:
        next: taken one by one; afterwards `then` holds.
        delay: seconds before each answer.
        seen: (method, what was done) of every request.
    """

    def __init__(self) -> None:
        self.next: list[str] = []
        self.then = "pass"
        self.delay = 0.0
        self.seen: list[tuple[str, str]] = []
        self.lock = threading.Lock()

    def take(self, method: str) -> str:
        with self.lock:
            fault = self.next.pop(0) if self.next else self.then
            self.seen.append((method, fault))
            return fault


@contextlib.contextmanager
def faulty(endpoint: str) -> Iterator[tuple[str, Faults]]:
    """Runs the proxy; gives its address and what it is told to do."""
    faults, behind = Faults(), urlparse(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            fault = faults.take(self.command)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(faults.delay)
            if fault == "refuse":
                self.close_connection = True
                return
            if fault == "error":
                self.answer(500, {}, b"<Error><Code>InternalError</Code><Message>on purpose</Message></Error>")
                return
            connection = http.client.HTTPConnection(behind.hostname, behind.port, timeout=30)
            # With the headers as they are: the host's name is signed.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if fault == "lose":
                self.close_connection = True
                return
            self.answer(answer.status, dict(answer.getheaders()), content)

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", headers.get("content-length"))
            self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_request  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
