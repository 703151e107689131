"""Requests that wait: dropped when nobody waits for them any more, refused at once when there are too many."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from gated_server import GatedBench, eventually, gated_server

BODY = json.dumps({"id": "7", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}).encode()
TIMEOUT = json.dumps({"parameters": {"timeout": 50_000}} | json.loads(BODY)).encode()
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def run(go: Callable[[GatedBench], Awaitable[None]], **options: Any) -> None:
    """Run `go` with a server."""

    async def main() -> None:
        async with gated_server(**options) as bench:
            await go(bench)

    asyncio.run(main())


async def sent(bench: GatedBench, body: bytes = BODY, path: str = "/v2/models/m/infer", *headers: str) -> Any:
    """A request that is on its way: its reader and writer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", "Connection: close", *headers]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return reader, writer


async def answer(bench: GatedBench, *arguments: Any) -> tuple[int, str, Any]:
    """Send and read: status, head, document."""
    reader, writer = await sent(bench, *arguments)
    data = await reader.read()
    writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), json.loads(body)


def test_who_hangs_up_leaves_the_queue() -> None:
    """The one that runs cannot be stopped; the one that waits is never run."""

    async def go(bench: GatedBench) -> None:
        _, first = await sent(bench)
        await eventually(lambda: bench.session.runs == 1)
        for path, body in (("/v2/models/m/infer", BODY), ("/v1/models/m:predict", b'{"inputs": [1, 2]}')):
            _, second = await sent(bench, body, path)
            await eventually(lambda: bench.pool.waiting == 1)
            second.close()
            await eventually(lambda: bench.pool.waiting == 0)
        third = asyncio.ensure_future(answer(bench))
        await eventually(lambda: bench.pool.waiting == 1)
        bench.session.gate.set()
        assert (await third)[0] == 200
        assert bench.session.runs == 2
        first.close()

    run(go)


def test_too_many_are_told_at_once_when_to_try_again() -> None:
    """429 and Retry-After, while the others still wait."""

    async def go(bench: GatedBench) -> None:
        held = [asyncio.ensure_future(answer(bench)) for _ in range(3)]
        await eventually(lambda: bench.pool.waiting == 2)
        began = time.monotonic()
        status, head, document = await answer(bench)
        assert time.monotonic() - began < 1
        assert (status, "overloaded" in document["error"]) == (429, True)
        assert re.search(r"(?i)\r\nretry-after: 1\r\n", head)
        bench.session.gate.set()
        assert [(await one)[0] for one in held] == [200] * 3

    run(go, queue=2)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY, ["Request-Timeout: 0.05"]),
        (TIMEOUT, []),
        (TIMEOUT, ["Request-Timeout: 60"]),
        (TIMEOUT.replace(b"50000", b"60000000"), ["Request-Timeout: 0.05"]),
    ],
)
def test_the_earlier_deadline_counts(body: bytes, headers: list[str]) -> None:
    """504, soon, whether it was in the queue or running."""

    async def go(bench: GatedBench) -> None:
        for _ in range(2):
            began = time.monotonic()
            status, _, document = await answer(bench, body, "/v2/models/m/infer", *headers)
            assert (status, "deadline" in document["error"]) == (504, True)
            assert time.monotonic() - began < 5
        assert bench.pool.waiting == 0

    run(go)


@pytest.mark.parametrize("text", ["soon", "-1", "1e3", "nan", "1" * 30, "٣"])
def test_a_deadline_is_a_number_of_seconds(text: str) -> None:
    """Or 400."""

    async def go(bench: GatedBench) -> None:
        bench.session.gate.set()
        header = f"Request-Timeout: {text}"
        status, _, document = await answer(bench, BODY, "/v2/models/m/infer", header)
        assert (status, "Request-Timeout" in document["error"]) == (400, True)

    run(go)


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ([TRACE], TRACE),
        ([TRACE.replace("00-4", "cc-4", 1) + "-what-will-be"], TRACE.replace("00-4", "cc-4", 1) + "-what-will-be"),
        ([TRACE + "-more"], ""),
        ([TRACE.upper()], ""),
        (["ff" + TRACE[2:]], ""),
        (["00-" + "0" * 32 + TRACE[35:]], ""),
        ([TRACE[:36] + "0" * 16 + "-01"], ""),
        ([TRACE, TRACE], ""),
        (["nonsense"], ""),
        ([], ""),
    ],
)
def test_a_trace_goes_with_the_call(headers: list[str], kept: str) -> None:
    """W3C Trace Context: what is not valid is as if it were not there."""

    async def go(bench: GatedBench) -> None:
        bench.session.gate.set()
        more = [f"traceparent: {text}" for text in headers]
        assert (await answer(bench, BODY, "/v2/models/m/infer", *more))[0] == 200
        (call,) = bench.pool.calls
        assert (call.traceparent, call.id) == (kept, "7")

    run(go)


def test_an_output_that_there_is_not_is_refused_before_anything_runs() -> None:
    """The engine has better things to do."""

    async def go(bench: GatedBench) -> None:
        body = json.dumps(json.loads(BODY) | {"outputs": [{"name": "nope"}]}).encode()
        status, _, document = await answer(bench, body)
        assert (status, "no output 'nope'" in document["error"]) == (400, True)
        assert not bench.session.runs

    run(go)
