"""The short way gives what the ordinary way gives, or nothing."""

import importlib.util
import json
import socket
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from boxes import RunningBox, as_json, running_box
from bundles import digits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.config import EngineConfig, HttpConfig
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.tensors import Datatype, TensorSpec
from edge_runtime.errors import Code, ContentError, EdgeError
from edge_runtime.events import EventBus
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.description import Description
from edge_runtime.inference.pool import Pool
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.service import Inference, InferenceService
from edge_runtime.transports import codec
from edge_runtime.transports.http.bodies import Bodies
from edge_runtime.transports.http.direct import Direct

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("msgspec") is None or int(np.__version__.split(".", maxsplit=1)[0]) < 2,
    reason="without msgspec or with numpy 1 every request takes the ordinary way",
)

COMMON = [(b"date", b"today")]
PATH = "/v2/models/m/infer"


class Mirror:
    """A session that answers with its input, or fails."""

    sample_bytes = 100
    error: Exception | None = None

    def __init__(self, spec: TensorSpec) -> None:
        self.inputs = self.outputs = (spec,)

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The inputs."""
        if self.error is not None:
            raise self.error
        return dict(tensors)


class Bench:
    """A quick model "m" that mirrors its input, behind the short way and behind the ordinary one."""

    def __init__(self, datatype: Datatype = "INT8", shape: tuple[int, ...] = (1, 3), inline_bytes: int = 1000) -> None:
        self.registry = Registry()
        self.mirror = Mirror(TensorSpec("x", datatype, shape))
        self.inline_bytes = inline_bytes
        self.serve("1")
        service = InferenceService(self.registry, EventBus(), EngineConfig())
        self.direct = Direct(self.registry, service, Bodies(HttpConfig(), service.workers))

    def serve(self, version: str) -> ServedVersion:
        """Swap a version in."""
        specs = self.mirror.inputs
        description = Description("e", "1", "fast", "raw", specs, specs)
        pool = Pool([self.mirror], max_waiting=1, inline_bytes=self.inline_bytes)
        manifest, admission = Manifest("m", version, {}), Admission(description, EngineConfig())
        served = ServedVersion(manifest, f"digest{version}", description, pool, admission)
        self.registry.swap(served)
        return served

    def ask(self, body: bytes, **head: Any) -> bytes | None:
        """The answer of the short way to a request whose head is known."""
        self.learn(body, **head)
        return self.answer(request(body, **head))

    def answer(self, data: bytes) -> bytes | None:
        """The answer of the short way."""
        known = self.direct.recognize(data)
        if known is None or known.size != len(data):
            return None
        question = self.direct.read(known, data)
        return None if question is None else self.direct.answer_now(question, COMMON)

    def learn(self, body: bytes, path: str = PATH, extra: bytes = b"", **scope: Any) -> None:
        """The request came the ordinary way."""
        lines = [line.split(b": ", 1) for line in request(body, path, extra).split(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
        known = {"method": "POST", "path": path, "query_string": b"", "http_version": "1.1"}
        headers = [(name.lower(), value) for name, value in lines]
        self.direct.learn(request(body, path, extra), known | {"headers": headers} | scope)

    def ordinary(self, body: bytes) -> dict[str, Any]:
        """The document that the ordinary way answers with."""
        served = self.registry.find("m")
        try:
            wanted = codec.parse_infer(body, served.description.inputs)
            served.admission.check(wanted.tensors)
        except EdgeError as error:
            return {"error": str(error)}
        inference = Inference("m", served.version, dict(wanted.tensors), served.description.outputs)
        document: dict[str, Any] = json.loads(codec.format_infer(inference, wanted).body)
        return document


def request(body: bytes, path: str = PATH, extra: bytes = b"", **_: Any) -> bytes:
    """A whole request."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + extra + b"\r\n" + body


def body_of(data: Any, **changes: Any) -> bytes:
    """A request's document."""
    return as_json({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "INT8", "data": data} | changes]})


def parts(answer: bytes | None) -> tuple[bytes, Any]:
    """The head of an answer, and its document."""
    assert answer is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    return head, json.loads(body)


def test_a_known_head_is_answered_whatever_the_length_of_its_body() -> None:
    """Only the digits of content-length may differ."""
    bench = Bench()
    assert bench.answer(request(body_of([1, 2, 3]))) is None, "answered without having seen the head"
    bench.learn(body_of([1, 2, 3]))
    head, document = parts(bench.answer(request(body_of([-128, 127, 100]))))
    assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-type: application/json\r\n")
    assert document["outputs"] == [{"name": "x", "datatype": "INT8", "shape": [1, 3], "data": [-128, 127, 100]}]
    assert bench.registry.find("m").stats.requests == 1


@pytest.mark.parametrize(
    "extra",
    [
        b"Connection: close\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Expect: 100-continue\r\n",
        b"traceparent: 00-0-0-00\r\n",
        b"Inference-Header-Content-Length: 0\r\n",
        b"Inference-Header-Content-Length: x\r\n",
        b"Content-Length: 7\r\n",
        b"X-Unknown: 1\r\n",
    ],
)
def test_a_head_that_means_more_takes_the_ordinary_way(extra: bytes) -> None:
    """Also one with a header that nobody here knows yet."""
    assert Bench().ask(body_of([1, 2, 3]), extra=extra) is None


@pytest.mark.parametrize("scope", [{"http_version": "1.0"}, {"query_string": b"a=1"}, {"method": "PUT"}])
def test_only_plain_posts_are_kept(scope: dict[str, Any]) -> None:
    """What the parser has read counts, not what the bytes look like."""
    assert Bench().ask(body_of([1, 2, 3]), **scope) is None


def test_what_is_not_one_whole_request_takes_the_ordinary_way() -> None:
    """Parts of a request, two of them, and a length that is a lie."""
    bench, whole = Bench(), request(body_of([1, 2, 3]))
    bench.learn(body_of([1, 2, 3]))
    assert bench.answer(whole) is not None
    for cut in range(len(whole)):
        assert bench.answer(whole[:cut]) is None
        assert bench.answer(whole[cut:] + whole) is None


def test_a_swap_is_seen_by_the_next_request() -> None:
    """And a version that is named is the one that answers; a model that has gone is the ordinary way's to tell."""
    bench = Bench()
    assert parts(bench.ask(body_of([1, 2, 3])))[1]["model_version"] == "1"
    bench.serve("2")
    assert parts(bench.ask(body_of([1, 2, 3])))[1]["model_version"] == "2"
    assert parts(bench.ask(body_of([1, 2, 3]), path="/v2/models/m/versions/1/infer"))[1]["model_version"] == "1"
    assert bench.ask(body_of([1, 2, 3]), path="/v2/models/m/versions/3/infer") is None
    bench.registry.remove("m")
    assert bench.ask(body_of([1, 2, 3])) is None


def test_a_slow_model_takes_the_ordinary_way() -> None:
    """It would hold up the event loop."""
    assert Bench(inline_bytes=0).ask(body_of([1, 2, 3])) is None
    assert Bench(inline_bytes=2).ask(body_of([1, 2, 3])) is None


def test_a_failing_model_is_told_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    """Whether or not somebody foresaw it."""
    bench = Bench()
    bench.mirror.error = ContentError("the model failed to run: overflow")
    head, document = parts(bench.ask(body_of([1, 2, 3])))
    assert (head.split(b"\r\n")[0], document) == (
        b"HTTP/1.1 422 Unprocessable Entity",
        {"error": "the model failed to run: overflow"},
    )
    assert bench.registry.find("m").stats.errors == {Code.BAD_CONTENT: 1}
    bench.mirror.error = ZeroDivisionError()
    assert parts(bench.ask(body_of([1, 2, 3])))[0].startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError" in caplog.text


def test_what_is_worth_packing_takes_the_ordinary_way() -> None:
    """Where the caller takes it packed; a short answer is sent as it is."""
    accepts = b"Accept-Encoding: gzip\r\n"
    assert Bench().ask(body_of([1, 2, 3]), extra=accepts) is not None
    large = Bench(shape=(1, 5000), inline_bytes=10_000)
    body = body_of([1] * 5000, shape=[1, 5000])
    assert large.ask(body) is not None
    assert large.ask(body, extra=accepts) is None
    assert large.ask(body, extra=b"Accept-Encoding: gzip;q=0\r\n") is not None


def test_an_answer_that_is_long_as_json_takes_the_ordinary_way() -> None:
    """A thread writes it; however few bytes the request has."""
    shape = (1, 5000)
    quick = Bench("FP32", shape, inline_bytes=30_000)
    assert quick.ask(body_of([0] * 5000, shape=shape, datatype="FP32")) is None
    assert Bench("FP32", (1, 3)).ask(body_of([0] * 3, datatype="FP32")) is not None


def test_heads_are_bounded() -> None:
    """A client that makes every head anew fills nothing."""
    bench = Bench()
    for number in range(1000):
        bench.learn(body_of([1, 2, 3]), extra=f"User-Agent: {number}\r\n".encode())
    assert len(bench.direct._targets) <= 256


def binary_of(values: NDArray[Any], *, asked: dict[str, Any] | None = None, **changes: Any) -> tuple[bytes, bytes]:
    """The body of a binary request, and the header that says how much of it is JSON."""
    entry = {"name": "x", "shape": [1, 3], "datatype": "INT8", "parameters": {"binary_data_size": values.nbytes}}
    more = {"parameters": {"binary_data_output": True}} if asked is None else asked
    document = as_json({"inputs": [entry | changes]} | more)
    return document + values.tobytes(), f"Inference-Header-Content-Length: {len(document)}\r\n".encode()


def test_raw_bytes_are_answered_with_raw_bytes() -> None:
    """Whatever they are; the JSON around them is that of the ordinary way."""
    bench = Bench()
    for values in (np.int8([1, 2, 3]), np.int8([-128, 127, 0])):
        body, header = binary_of(values)
        answer = bench.ask(body, extra=header)
        assert answer is not None
        head, _, content = answer.partition(b"\r\n\r\n")
        split = int(head.lower().partition(b"inference-header-content-length: ")[2].split()[0])
        assert f"content-length: {len(content)}".encode() in head
        assert content[split:] == values.tobytes()
        served = bench.registry.find("m")
        wanted = codec.parse_infer(body, served.description.inputs, len(body) - values.nbytes)
        inference = Inference("m", served.version, wanted.tensors, served.description.outputs)
        assert json.loads(content[:split]) == json.loads(codec.format_infer(inference, wanted).body[:split])


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        (np.int8([1, 2]), {}),
        (np.int8([1, 2, 3]), {"shape": [1, -1]}),
        (np.int8([1, 2, 3]), {"datatype": "UINT8"}),
        (np.int8([1, 2, 3]), {"parameters": {"binary_data_size": 2}}),
        (np.int8([1, 2, 3]), {"asked": {}}),
        (np.int8([1, 2, 3]), {"asked": {"parameters": {"binary_data_output": True, "sequence_id": 1}}}),
        (np.int8([1, 2, 3]), {"asked": {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}}),
        (np.int8([1, 2, 3]), {"asked": {"outputs": [{"name": "x", "parameters": {"classification": 1}}]}}),
    ],
)
def test_raw_bytes_that_are_wrong_or_special_take_the_ordinary_way(
    values: NDArray[Any], changes: dict[str, Any]
) -> None:
    """Which says what is wrong with them, or does what is asked."""
    bench = Bench()
    body, header = binary_of(values, **changes)
    assert bench.ask(body, extra=header) is None


def test_raw_bytes_of_another_length_are_not_taken_for_the_layout_that_is_known() -> None:
    """The JSON is the same to the byte."""
    bench = Bench()
    body, header = binary_of(np.int8([1, 2, 3]))
    assert bench.ask(body, extra=header) is not None
    for wrong in (body[:-1], body + b"1", body + body[-3:]):
        assert bench.answer(request(wrong, extra=header)) is None


def test_what_is_remembered_of_requests_does_not_hold_their_bodies() -> None:
    """Clients that give every request an id of its own would fill the memory with their tensors."""
    shape = (1, 20_000)
    bench, values = Bench("FP32", shape, inline_bytes=100_000), np.zeros(shape, "<f4")
    whole = [
        binary_of(values, asked={"id": f"{number:04}", "parameters": {"binary_data_output": True}}, shape=shape)
        for number in range(40)
    ]
    whole = [(body.replace(b'"INT8"', b'"FP32"'), header) for body, header in whole]
    assert bench.ask(whole[0][0], extra=whole[0][1]) is not None
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for body, header in whole:
        answer = bench.answer(request(body, extra=header))
        assert answer is not None
        assert answer.endswith(values.tobytes())
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken < 3 * values.nbytes


def test_much_json_before_raw_bytes_takes_the_ordinary_way() -> None:
    """Parsing it takes its time, and remembering it takes memory."""
    body, header = binary_of(np.int8([1, 2, 3]), asked={"parameters": {"binary_data_output": True}, "id": "i" * 5000})
    assert Bench().ask(body, extra=header) is None


VALUES = st.one_of(st.integers(-200, 300), st.floats(-1e39, 1e39), st.booleans(), st.none(), st.text(max_size=2))
ENTRIES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "y"]),
        "shape": st.sampled_from([[1, 3], [3], [2, 3], [3, 1], [1, -3], [1, -1], ["1", 3], [1, 3.0], []]),
        "datatype": st.sampled_from(["INT8", "FP32"]),
        "data": st.lists(VALUES, min_size=3, max_size=3) | st.lists(st.integers(0, 9), max_size=7),
    },
    optional={"parameters": st.just({}), "more": st.just(1)},
)


@given(
    entries=st.lists(ENTRIES, max_size=2),
    more=st.fixed_dictionaries({}, optional={"id": st.text(max_size=4), "outputs": st.just([{"name": "x"}])}),
    datatype=st.sampled_from(["INT8", "FP32"]),
)
@settings(max_examples=300)
def test_it_answers_as_the_ordinary_way_or_not_at_all(
    entries: list[dict[str, Any]], more: dict[str, Any], datatype: Datatype
) -> None:
    """Whatever is sent."""
    bench, body = Bench(datatype), as_json({"inputs": entries} | more)
    answer = bench.ask(body)
    if answer is not None:
        assert parts(answer)[1] == bench.ordinary(body)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBox]:
    """A daemon that serves the digits."""
    with running_box(tmp_path_factory.mktemp("direct")) as running:
        assert running.push(digits())["state"] == "COMMITTED"
        yield running


@contextmanager
def connected(box: RunningBox) -> Iterator[socket.socket]:
    """A connection without delays."""
    where = urlsplit(box.url)
    with socket.create_connection((str(where.hostname), where.port or 0), timeout=10) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield link


def read_answer(received: Any) -> Any:
    """The document of the next answer."""
    return json.loads(read_bytes(received))


def exchange(box: RunningBox, *pieces: bytes, answers: int) -> list[Any]:
    """Send pieces on one connection; the documents that come back."""
    with connected(box) as link:
        for piece in pieces:
            link.sendall(piece)
        received = link.makefile("rb")
        return [read_answer(received) for _ in range(answers)]


def test_however_it_comes_each_request_has_its_answer(box: RunningBox) -> None:
    """One by one, all at once, in pieces, and a bad one between good ones."""
    data = [{"name": "image", "shape": [1, 8, 8, 1], "datatype": "INT8", "data": [0] * 64}]
    whole = [request(as_json({"id": str(i), "inputs": data}), "/v2/models/digits/infer") for i in range(12)]
    bad = request(as_json({"inputs": 1}), "/v2/models/digits/infer")
    for pieces in (whole, [b"".join(whole)], [b"".join(whole)[i : i + 100] for i in range(0, 12 * 500, 100)]):
        assert [answer["id"] for answer in exchange(box, *pieces, answers=12)] == [str(i) for i in range(12)]
    found = exchange(box, whole[0], bad, whole[1], whole[2] + bad + whole[3], answers=6)
    assert [answer.get("id") for answer in found] == ["0", None, "1", "2", None, "3"]
    ordinary = box.post("/v2/models/digits/infer", as_json({"id": "7", "inputs": data}) + b" ", "text/plain")[1]
    assert exchange(box, *whole[7:9], answers=2)[0] == ordinary


@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_large_bodies_come_in_parts(tmp_path: Path, pause: float) -> None:
    """A body of raw bytes that fills several reads, ahead of the next ones, and one whose caller hangs up."""
    with running_box(tmp_path) as box:
        assert box.push(digits())["state"] == "COMMITTED"
        rows = 2000
        values = np.arange(rows * 64, dtype=np.int64).astype(np.int8)
        entry = {"name": "image", "shape": [rows, 8, 8, 1], "datatype": "INT8"}
        size = {"parameters": {"binary_data_size": values.nbytes}}
        wanted = {"outputs": [{"name": "scores", "parameters": {"binary_data": True}}]}
        document = as_json({"inputs": [entry | size]} | wanted)
        header = f"Inference-Header-Content-Length: {len(document)}\r\n".encode()
        whole = request(document + values.tobytes(), "/v2/models/digits/infer", header)
        with connected(box) as link:
            received = link.makefile("rb")
            answers = []
            for parts in ([whole], [whole], [whole[:70_000], whole[70_000:]], [whole + whole, whole[:9], whole[9:]]):
                for part in parts:
                    link.sendall(part)
                    time.sleep(pause)
                answers += [read_bytes(received) for _ in range(3 if len(parts) == 3 else 1)]
        assert len(answers[0]) > rows * 10
        assert answers.count(answers[0]) == len(answers) == 6
        for cut in (100, 70_000, len(whole)):
            with connected(box) as link:
                link.sendall(whole)
                read_bytes(link.makefile("rb"))
                link.sendall(whole[:cut])
        assert box.get("/v2/health/ready") == {"ready": True}


def read_bytes(received: Any) -> bytes:
    """The body of the next answer."""
    length = 0
    while (line := received.readline().lower().strip()) != b"":
        length = int(line.split()[1]) if line.startswith(b"content-length") else length
    data: bytes = received.read(length)
    return data


def test_a_connection_of_short_ways_is_closed_when_it_is_silent(tmp_path: Path) -> None:
    """It has no timer of uvicorn's."""
    with running_box(tmp_path, "http.head_timeout_seconds=0.3") as box:
        box.push(digits())
        body = as_json({"inputs": [{"name": "image", "shape": [1, 8, 8, 1], "datatype": "INT8", "data": [0] * 64}]})
        with connected(box) as link:
            received = link.makefile("rb")
            for _ in range(3):
                link.sendall(request(body, "/v2/models/digits/infer"))
                assert "outputs" in read_answer(received)
            assert received.read(1) == b""
