"""A box for client tests: a real HTTP server that speaks the contract, and can fail in the ways that boxes fail."""

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

STATES = ("RECEIVED", "VERIFIED", "STAGED", "TRIAL", "COMMITTED")


@dataclass
class FakeBox:
    """What the box was told, and how it shall behave.

    Attributes:
        drops: bytes of a PATCH after which the connection breaks, one entry an attempt.
        lost_answers: how many PATCHes are taken but never answered.
        refusal: why every upload is refused; empty: none is.
        answers: canned (status, body) by "METHOD /path".
    """

    drops: list[int] = field(default_factory=list)
    lost_answers: int = 0
    refusal: str = ""
    models: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, bytes, str]] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    length: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    url: str = ""

    @property
    def digest(self) -> str:
        """Hex sha256 of what arrived."""
        return hashlib.sha256(self.received).hexdigest()

    def state_after(self, seen: str) -> str:
        """The state that follows the one the client has seen."""
        if self.refusal and seen == "RECEIVED":
            return "REFUSED"
        return STATES[STATES.index(seen) + 1] if seen in STATES[:-1] else "RECEIVED"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    box: FakeBox

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, document: object, status: int = 200) -> None:
        self._answer(status, json.dumps(document).encode(), Content_Type="application/json")

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        key = f"{self.command} {parts.path}"
        size = int(self.headers.get("Content-Length") or 0)
        if self.command == "PATCH":
            self._patch(size)
            return
        body = self.rfile.read(size)
        self.box.requests.append((self.command, self.path, body, self.headers.get("Content-Type", "")))
        if key in self.box.answers:
            self._answer(*self.box.answers[key])
        elif key == "POST /uploads":
            self._create()
        elif key == "HEAD /uploads/1":
            self._answer(200, Upload_Offset=str(len(self.box.received)))
        elif key == "GET /uploads/1":
            seen = parse_qs(parts.query).get("state", [""])[0]
            state = self.box.state_after(seen)
            reason = self.box.refusal if state == "REFUSED" else ""
            self._json({"id": "1", "state": state, "model": "m", "version": "1.0.0", "reason": reason})
        elif key == "GET /models":
            self._json({"models": self.box.models})
        else:
            self._json({"error": f"there is no {key}"}, 404)

    def _create(self) -> None:
        self.box.length = int(self.headers["Upload-Length"])
        self.box.received.clear()
        pairs = (pair.split() for pair in self.headers["Upload-Metadata"].split(","))
        self.box.metadata = {name: base64.b64decode(value).decode() for name, value in pairs}
        self._answer(201, Location="/uploads/1")

    def _patch(self, size: int) -> None:
        if int(self.headers["Upload-Offset"]) != len(self.box.received):
            self.rfile.read(size)
            self._json({"error": "another offset"}, 409)
            return
        if self.box.drops:
            self.box.received += self.rfile.read(min(size, self.box.drops.pop(0)))
            self._hang_up()
            return
        self.box.received += self.rfile.read(size)
        if self.box.lost_answers:
            self.box.lost_answers -= 1
            self._hang_up()
            return
        self._answer(204, Upload_Offset=str(len(self.box.received)))

    do_GET = do_POST = do_HEAD = do_PATCH = do_DELETE = _handle  # noqa: N815 - the base's names


@contextmanager
def serving() -> Iterator[FakeBox]:
    """A fake box on a free port of 127.0.0.1."""
    box = FakeBox()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"box": box}))
    server.daemon_threads = True
    box.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield box
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
