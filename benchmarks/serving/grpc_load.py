"""Closed-loop load over gRPC: by grpcio's asynchronous client, and by h2load (Debian's nghttp2-client).

A client in Python takes more time than the server it asks, so its numbers bound the rate from below; it compares
every answer. h2load costs little; it counts streams and bytes: an answer of another length counts as failed.

Usage (by the benchmark): python -m benchmarks.serving.grpc_load PORT QUESTIONS.npz MODEL SECONDS CONNECTIONS
"""

import asyncio
import json
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.load import Load, pinned
from benchmarks.serving.questions import Questions

_METHOD = "/inference.GRPCInferenceService/ModelInfer"


# Loads a server's gRPC port: (port, questions, connections, seconds, cores).
Way = Callable[[int, Questions, int, float, Sequence[int]], Load]


def ways() -> Mapping[str, Way]:
    """The clients that are installed."""
    return {"grpcio": by_grpcio} | ({"h2load": by_h2load} if shutil.which("h2load") else {})


def message(asked: Questions, number: int) -> bytes:
    """A ModelInferRequest with raw contents."""
    from tritonclient.grpc import service_pb2  # noqa: PLC0415 - only where gRPC is measured

    tensor = asked.inputs[number]
    request = service_pb2.ModelInferRequest(model_name=asked.model)
    request.inputs.add(name="x", datatype="INT8", shape=list(tensor.shape))
    request.raw_input_contents.append(tensor.tobytes())
    return bytes(request.SerializeToString())


def is_right(answer: bytes, expected: Any) -> bool:
    """Whether a ModelInferResponse holds those numbers, to a step."""
    from tritonclient.grpc import service_pb2  # noqa: PLC0415 - only where gRPC is measured

    values = np.frombuffer(service_pb2.ModelInferResponse.FromString(answer).raw_output_contents[0], np.int8)
    return len(values) == len(expected) and int(np.abs(values.astype(int) - expected).max()) <= 1


def by_grpcio(port: int, asked: Questions, connections: int, seconds: float, cores: Sequence[int]) -> Load:
    """Load from a process of its own with grpc.aio."""
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, inputs=asked.inputs, answers=asked.answers)
        file.flush()
        command = [
            *pinned(cores),
            *(sys.executable, "-m", "benchmarks.serving.grpc_load", str(port), file.name, asked.model),
            *(str(seconds), str(connections)),
        ]
        output = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2]
        ).stdout
    return Load(**json.loads(output))


def by_h2load(port: int, asked: Questions, connections: int, seconds: float, cores: Sequence[int]) -> Load:
    """Load from h2load, one stream at a time on each connection, all with the first question."""
    url = f"http://127.0.0.1:{port}{_METHOD}"
    body = message(asked, 0)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "body"
        path.write_bytes(b"\0" + struct.pack(">I", len(body)) + body)  # gRPC over HTTP/2: length-prefixed message
        log = Path(name) / "log"
        command = [
            *pinned(cores),
            *("h2load", f"-c{connections}", "-m1", f"-D{max(1, round(seconds))}", f"-d{path}", f"--log-file={log}"),
            *("-H", "content-type: application/grpc", "-H", "te: trailers", url),
        ]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        times = sorted(int(line.split()[2]) / 1e3 for line in log.read_text().splitlines())
    done, good = (int(re.search(rf"(\d+) {word}", output).group(1)) for word in ("done", "succeeded"))  # type: ignore[union-attr]
    data = int(re.search(r"\((\d+)\) data", output).group(1))  # type: ignore[union-attr]
    rate = float(re.search(r"([\d.]+) req/s", output).group(1))  # type: ignore[union-attr]
    # Every right answer has the same length; fewer bytes mean that some had none.
    expected = _answer_bytes(port, body)
    failed = max(done - good, round(good - data / expected))
    share = 1 - failed / max(1, done)
    return Load(rate * share, done, failed, 0, _percentile(times, 0.5), _percentile(times, 0.99))


def _answer_bytes(port: int, body: bytes) -> int:
    """Length of the framed answer to this message."""
    import grpc  # noqa: PLC0415 - only where gRPC is measured

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return 5 + len(channel.unary_unary(_METHOD)(body, timeout=10))


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def _ask(port: int, asked: Questions, seconds: float, connections: int) -> Load:
    import grpc  # noqa: PLC0415 - only where gRPC is measured

    times: list[float] = []
    failed = wrong = 0

    async def client(number: int) -> None:
        nonlocal failed, wrong
        number %= len(asked.inputs)
        request, right = message(asked, number), set()
        # Channels of the same options share one connection unless told otherwise.
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(_METHOD)
            await call(request)
            while time.perf_counter() < end:
                began = time.perf_counter()
                try:
                    answer = await call(request, timeout=10)
                except grpc.aio.AioRpcError:
                    failed += 1
                    continue
                times.append((time.perf_counter() - began) * 1e3)
                if answer not in right:
                    if is_right(answer, asked.answers[number]):
                        right.add(answer)
                    else:
                        wrong += 1

    end = time.perf_counter() + seconds
    await asyncio.gather(*(client(number) for number in range(connections)))
    times.sort()
    p50 = statistics.median(times) if times else 0.0
    return Load((len(times) - wrong) / seconds, len(times) + failed, failed, wrong, p50, _percentile(times, 0.99))


def main() -> None:
    """Load as the arguments say and print what was seen."""
    port, path, model, seconds, connections = sys.argv[1:]
    arrays = np.load(path)
    asked = Questions(model, arrays["inputs"], arrays["answers"])
    print(json.dumps(asdict(asyncio.run(_ask(int(port), asked, float(seconds), int(connections))))))


if __name__ == "__main__":
    main()
