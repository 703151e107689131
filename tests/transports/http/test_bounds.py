"""What a real daemon does with callers that are silent, slow, too many, or all of these."""

import contextlib
import http.client
import importlib.util
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from boxes import RunningBox, as_json, running_box
from bundles import digits
from peers import require_peer

ZEROS = as_json([[0] * 8] * 8)
TIMEOUT_SECONDS = 1.0
CONNECTIONS = 16
MAX_BODY_BYTES = 4_000_000
MAX_BODIES_BYTES = 10_000_000
FEW_DESCRIPTORS = 300


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBox]:
    """A daemon with small bounds."""
    bounds = [
        f"http.head_timeout_seconds={TIMEOUT_SECONDS}",
        f"http.body_timeout_seconds={TIMEOUT_SECONDS}",
        f"http.max_connections={CONNECTIONS}",
        f"http.max_body_bytes={MAX_BODY_BYTES}",
        f"http.max_bodies_bytes={MAX_BODIES_BYTES}",
    ]
    with running_box(tmp_path_factory.mktemp("bounds"), *bounds) as running:
        assert running.push(digits())["state"] == "COMMITTED"
        yield running


@contextmanager
def connected(box: RunningBox, first: bytes = b"") -> Iterator[socket.socket]:
    """A connection on which `first` was sent."""
    where = urlsplit(box.url)
    with socket.create_connection((str(where.hostname), where.port or 0), timeout=10) as link:
        link.sendall(first)
        yield link


def head(path: str, length: int, method: str = "POST") -> bytes:
    """The head of a request."""
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def seconds_until_closed(link: socket.socket) -> float:
    """How long the box keeps the connection."""
    began = time.monotonic()
    try:
        while link.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - began


def trickle_until_closed(link: socket.socket, piece: bytes) -> float:
    """Send `piece` again and again; how long the box keeps the connection."""
    began = time.monotonic()
    link.settimeout(0.1)
    while time.monotonic() - began < 10:
        try:
            link.sendall(piece)
            if not link.recv(1000):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /healthz HTTP/1.1\r\nHos", head("/models/digits/predict", 1000) + b"[0,"],
    ids=["nothing", "half a head", "half a body"],
)
def test_a_silent_connection_is_closed(box: RunningBox, said: bytes) -> None:
    """Soon after the time that it has, and not before."""
    with connected(box, said) as link:
        assert TIMEOUT_SECONDS * 0.8 < seconds_until_closed(link) < TIMEOUT_SECONDS + 2


@pytest.mark.parametrize(
    ("said", "piece"),
    [(b"GET /healthz HTTP/1.1\r\n", b"X: y\r\n"), (head("/models/digits/predict", 10**6), b"0")],
    ids=["head", "body"],
)
def test_a_byte_now_and_then_does_not_hold_a_connection(box: RunningBox, said: bytes, piece: bytes) -> None:
    """A head has its time as a whole, a body must really go on."""
    with connected(box, said) as link:
        assert trickle_until_closed(link, piece) < TIMEOUT_SECONDS + 2


def test_a_slow_body_that_goes_on_gets_its_answer(box: RunningBox) -> None:
    """Longer than the timeout in all, but never silent for so long."""
    body = ZEROS + b" " * 30_000
    with connected(box, head("/models/digits/predict", len(body))) as link:
        for start in range(0, len(body), 3000):
            link.sendall(body[start : start + 3000])
            time.sleep(TIMEOUT_SECONDS / 5)
        assert link.recv(65536).startswith(b"HTTP/1.1 200")


def test_an_answer_that_nobody_reads_does_not_hold_a_connection(box: RunningBox) -> None:
    """Large answers are asked for (an id comes back as it was), and not taken."""
    tensor = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "INT8", "data": [0] * 64}
    body = as_json({"id": "x" * 3_000_000, "inputs": [tensor]})
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        where = urlsplit(box.url)
        link.connect((where.hostname, where.port))
        for _ in range(3):
            link.sendall(head("/v2/models/digits/infer", len(body)) + body)
            time.sleep(0.1)  # the next is not sent ahead, as a whole
        watch = select.poll()
        watch.register(link, 0)  # an end of the connection is always told
        assert watch.poll((TIMEOUT_SECONDS + 3) * 1000)


def test_requests_sent_ahead_are_answered_in_their_order_up_to_a_bound(box: RunningBox) -> None:
    """Each costs memory before anybody looks at it."""
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(box, request * 50) as link:
        answers = b""
        while answers.count(b'{"live":true}') < 50:
            answers += link.recv(65536)
    if importlib.util.find_spec("httptools") is None:
        return  # h11 reads the next request when it has answered the one before
    with connected(box, request * 2000) as link:
        assert seconds_until_closed(link) < TIMEOUT_SECONDS / 2


def test_a_head_without_end_is_refused(box: RunningBox) -> None:
    """Its bytes would be kept until the end comes."""
    with connected(box, b"GET / HTTP/1.1\r\nHost: x\r\nX: ") as link:
        answer = b""
        try:
            for _ in range(100):
                link.sendall(b"y" * 10_000)
            answer = link.recv(65536)
        except ConnectionError:
            return  # the answer may be lost when more comes in after it
        assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))  # with httptools, with h11


def test_what_is_no_http_gets_an_answer_in_json(box: RunningBox) -> None:
    """Errors are JSON, whatever they are about."""
    with connected(box, b"\x16\x03\x01 hello\r\n\r\n") as link:
        answer = link.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'{"error":"this is no HTTP request' in answer


def test_silent_connections_give_their_place_to_who_asks(box: RunningBox) -> None:
    """As many as there may be and more: everybody else is answered at once."""
    with ExitStack() as stack:
        links = [stack.enter_context(connected(box)) for _ in range(3 * CONNECTIONS)]
        began = time.monotonic()
        with connected(box, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n") as link:
            assert link.recv(65536).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < TIMEOUT_SECONDS / 2
        open_links = len(list(Path(f"/proc/{box.process.pid}/fd").iterdir()))
        assert open_links < CONNECTIONS + 60
        assert links


def test_busy_connections_are_not_driven_out(box: RunningBox) -> None:
    """With a request in each, the newcomer is told so, in JSON."""
    busy = head("/models/digits/predict", 20_000) + b"[" + b" " * 2000
    with ExitStack() as stack:
        links = [stack.enter_context(connected(box, busy)) for _ in range(CONNECTIONS)]
        time.sleep(0.2)  # until the box has read them; it has no way to say so
        with connected(box) as newcomer:
            answer = newcomer.recv(65536)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b'{"error":"16 connections are in use' in answer
        rest = ZEROS[1:] + b" " * (20_000 - 2000 - len(ZEROS))
        links[0].sendall(rest)
        assert links[0].recv(65536).startswith(b"HTTP/1.1 200")
    assert box.post("/models/digits/predict", ZEROS)[0] == 200


def test_all_bodies_together_have_a_budget_that_is_given_back(box: RunningBox) -> None:
    """Beyond it a request is told so; when the stalled ones are gone there is room again."""
    large = b"[" + b" " * (MAX_BODY_BYTES - 2) + b"]"
    stalled = head("/models/digits/predict", MAX_BODY_BYTES) + b"x" * (MAX_BODY_BYTES - 1)

    def told_while_two_stall() -> bool:
        """Whether a third was refused; a busy machine may take longer to read the two than they may stall."""
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(connected(box, stalled))
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while time.monotonic() < deadline:
                status, answer = box.post("/models/digits/predict", large)
                if status == 429:
                    assert "http.max_bodies_bytes" in answer["error"]
                    assert box.post("/models/digits/predict", ZEROS)[0] == 200
                    return True
        return False

    for _ in range(2):
        assert any(told_while_two_stall() for _ in range(10))
        status, deadline = 429, time.monotonic() + 10
        while status == 429 and time.monotonic() < deadline:
            status, answer = box.post("/models/digits/predict", large)
        assert status == 413, answer  # it was read, and is too large for the model


def test_few_file_descriptors_bound_the_connections_and_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a hard limit below what the configuration allows, a flood is survived and the watchdog is fed."""
    few = [require_peer("prlimit"), f"--nofile={FEW_DESCRIPTORS}:{FEW_DESCRIPTORS}"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, ExitStack() as stack:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "500000")
        box = stack.enter_context(running_box(tmp_path / "state", prefix=few))
        for _ in range(2 * FEW_DESCRIPTORS):
            stack.enter_context(connected(box))
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # what was sent before the flood
            while True:
                manager.recv(4096)
        manager.settimeout(5)
        while b"WATCHDOG=1" not in manager.recv(4096):
            pass
        assert box.get("/v2/health/live") == {"live": True}
        assert "http.max_connections is 44 here" in box.log
        assert box.terminate() < 5
        assert box.process.returncode == 0


def test_the_daemon_takes_all_file_descriptors_that_it_may_have(tmp_path: Path) -> None:
    """The usual soft limit is for programs that use select(2)."""
    prefix = [require_peer("prlimit"), f"--nofile={FEW_DESCRIPTORS}:1000"]
    with running_box(tmp_path, prefix=prefix) as box:
        limits = Path(f"/proc/{box.process.pid}/limits").read_text()
    assert re.search(r"^Max open files +1000 +1000 ", limits, re.MULTILINE)


RAW = as_json(
    {
        "inputs": [
            {"name": "image", "shape": [1, 8, 8, 1], "datatype": "INT8", "parameters": {"binary_data_size": 64}},
        ],
        "outputs": [{"name": "scores", "parameters": {"binary_data": True}}],
    }
)


def raw_head(length: int) -> bytes:
    """The head of a request with raw bytes; but for the length it is always the same."""
    return (
        f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
        f"Inference-Header-Content-Length: {len(RAW)}\r\n\r\n"
    ).encode()


@contextmanager
def known_head(box: RunningBox) -> Iterator[socket.socket]:
    """A connection, after two requests that were answered."""
    whole = raw_head(len(RAW) + 64) + RAW + bytes(64)
    with connected(box) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            link.sendall(whole)
            assert answer_status(link) == 200
        yield link


def answer_status(link: socket.socket) -> int:
    """The status of the next answer, once all of it is here."""
    answer = http.client.HTTPResponse(link)
    answer.begin()
    answer.read()
    return answer.status


def test_bytes_that_are_only_announced_take_nothing_from_others_whatever_the_way(box: RunningBox) -> None:
    """Also behind a head that the box has seen before."""
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(known_head(box)).sendall(raw_head(MAX_BODY_BYTES - 1) + RAW)
        time.sleep(0.1)
        status, told = box.post("/v2/models/digits/infer", b" " * (MAX_BODY_BYTES - 1), "application/json")
        assert (status, told) == (400, told)


def test_bodies_that_have_come_are_counted_whatever_the_way(box: RunningBox) -> None:
    """The one that is too many is told so."""
    with ExitStack() as stack:
        links = [stack.enter_context(known_head(box)) for _ in range(3)]
        for link in links:
            link.sendall(raw_head(MAX_BODY_BYTES - 1) + RAW + bytes(MAX_BODY_BYTES - 100 - len(RAW)))
        readable, _, _ = select.select(links, [], [], 5)
        assert answer_status(readable[0]) == 429
    assert box.post("/models/digits/predict", ZEROS, "application/json")[0] == 200


def test_a_body_has_its_whole_time_after_a_pause(box: RunningBox) -> None:
    """The pause before the request does not count."""
    with known_head(box) as link:
        time.sleep(0.8 * TIMEOUT_SECONDS)
        link.sendall(raw_head(len(RAW) + 64))
        time.sleep(0.75 * TIMEOUT_SECONDS)
        link.sendall(RAW + bytes(64))
        assert answer_status(link) == 200
