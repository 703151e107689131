"""Latency at a constant rate: at 70 % of what the server can do, beside a busy large model, and far above capacity."""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.serving import contestants, load, meters
from benchmarks.serving.contestants import Server
from benchmarks.serving.load import pinned
from benchmarks.serving.questions import Questions, oip_binary, oip_json
from benchmarks.serving.scenarios import ALL_CORES, LOAD_CORES, SERVER_CORES, model_and_questions, start
from benchmarks.serving.turns import Plan, Row, tell

SHARE = 0.7
OVERLOAD = 4
DEADLINE_MS = 250
_QUIET_RATE = 100.0  # of the small model beside the large: enough for a p99 in some seconds, too little to fill a core

_ONE_CORE_FREE = [f"engine.instances={max(1, len(ALL_CORES) - 1)}"]

# By status as the client saw it: count, p50_ms, p99_ms.
Seen = dict[int, dict[str, float]]


def paced(
    server: Server,
    asked: Questions,
    rate: float,
    seconds: float,
    connections: int,
    *,
    cores: Sequence[int] = (),
    spin: bool = True,
    **parameters: object,
) -> Seen:
    """JSON requests at this rate from a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        for number, tensor in enumerate(asked.inputs):
            fields, body = oip_json(tensor, **parameters) if parameters else server.encode(tensor)
            head = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
            path = server.path.format(model=asked.model)
            start = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{head}\r\n"
            (Path(name) / f"{number}.request").write_bytes(start.encode() + body)
        command = [*pinned(cores), sys.executable, str(Path(__file__).with_name("pace.py")), str(server.port), name]
        command += [str(rate), str(seconds), str(connections), "spin" if spin else "sleep"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {int(status): summary for status, summary in json.loads(output).items()}


def at_seventy_percent(plan: Plan) -> list[Row]:
    """p50 and p99 at 70 % of what 8 connections in a closed loop reached just before, everyone who answers right."""
    path, asked = model_and_questions("tiny")
    rows = []
    for name in ("ours", "triton", "mlserver", "litserve"):
        with ExitStack() as stack:
            servers = start(stack, plan, (name,), {"tiny": path}, SERVER_CORES)
            if not servers:
                continue
            (server,), seen, shares = servers, list[tuple[float, Seen]](), list[float]()
            for number in range(plan.rounds + 1):
                tell(f"steady: round {number + 1} of {plan.rounds + 1}: {name}")
                key, cores = "data", LOAD_CORES
                full = load.ask(
                    server.url("tiny"), asked, server.encode, key=key, connections=8, seconds=1, cores=cores
                )
                rate = SHARE * full.per_second
                before = meters.cpu_seconds(server.process.pid)
                one = paced(server, asked, rate, plan.seconds, 64, cores=LOAD_CORES)
                shares.append((meters.cpu_seconds(server.process.pid) - before) / plan.seconds)
                seen.append((rate, one))
            rows.append(_steady_row(name, seen[1:], shares[1:]))  # the first warms up
    return rows


def _steady_row(name: str, seen: Sequence[tuple[float, Seen]], shares: Sequence[float]) -> Row:
    good = [one[200] for _, one in seen if 200 in one]
    measures = {
        "per_second": statistics.median(rate for rate, _ in seen),
        "p50_ms": statistics.median(one["p50_ms"] for one in good),
        "p99_ms": statistics.median(one["p99_ms"] for one in good),
        "p99_to_p50": statistics.median(one["p99_ms"] / one["p50_ms"] for one in good),
        "failed": sum(summary["count"] for _, one in seen for status, summary in one.items() if status != 200),
        "cpu_percent": statistics.median(shares) * 100,
    }
    return Row("steady", name, measures)


def beside_large(plan: Plan) -> list[Row]:
    """Latency of the tiny model while the large one is asked without a pause, ours.

    With one interpreter for the large model a core stays free (of two); by default it may take all of them.
    """
    if "ours" not in plan.only:
        return []
    tiny_path, tiny = model_and_questions("tiny")
    large_path, large = model_and_questions("mobilenet")
    ways = {"ours, one core free": _ONE_CORE_FREE, "ours, no core free": []}
    rows = []
    for name, settings in ways.items():
        models = {"tiny": tiny_path, "mobilenet": large_path}
        with contestants.ours(models, plan.room(name), (), settings) as server:
            seen, large_rates = [], []

            def saturate(
                server: Server = server, large_rates: list[load.Load] = large_rates, large: Questions = large
            ) -> None:
                url, seconds = server.url("mobilenet"), plan.seconds + 1
                large_rates.append(load.ask(url, large, oip_binary, key="", connections=8, seconds=seconds))

            for number in range(plan.rounds):
                tell(f"beside-large: round {number + 1} of {plan.rounds}: {name}")
                thread = threading.Thread(target=saturate)
                thread.start()
                seen.append(paced(server, tiny, _QUIET_RATE, plan.seconds, 8, spin=False))
                thread.join()
            row = _steady_row(name, [(_QUIET_RATE, one) for one in seen], [0.0])
            row.scenario = "beside-large"
            del row.measures["cpu_percent"], row.measures["p99_to_p50"]
            row.measures["large_per_second"] = statistics.median(one.per_second for one in large_rates)
            rows.append(row)
    return rows


def overload(plan: Plan) -> list[Row]:
    """Four times what the server can do of a model that takes some time, with a deadline, ours."""
    if "ours" not in plan.only:
        return []
    path, asked = model_and_questions("slow")
    with contestants.ours({"slow": path}, plan.room("ours"), (), _ONE_CORE_FREE) as server:
        url, seconds, seen, full = server.url("slow"), plan.seconds, list[Seen](), list[load.Load]()
        for number in range(plan.rounds):
            tell(f"overload: round {number + 1} of {plan.rounds}")
            full.append(load.ask(url, asked, server.encode, key="data", connections=8, seconds=seconds))
            rate = OVERLOAD * full[-1].per_second
            # Triton's request parameter is in microseconds.
            seen.append(paced(server, asked, rate, seconds, 400, spin=False, timeout=DEADLINE_MS * 1000))
        memory = meters.memory_mb(server.process.pid)
    capacity = {
        name: statistics.median(getattr(one, name) for one in full) for name in ("per_second", "p50_ms", "p99_ms")
    }
    rows = [Row("overload", "ours, at capacity", capacity)]
    for status in sorted({status for one in seen for status in one}):
        summaries = [one.get(status, {"count": 0, "p50_ms": 0.0, "p99_ms": 0.0}) for one in seen]
        measures = {
            "per_second": statistics.median(one["count"] for one in summaries) / seconds,
            "p50_ms": statistics.median(one["p50_ms"] for one in summaries),
            "p99_ms": statistics.median(one["p99_ms"] for one in summaries),
        }
        rows.append(Row("overload", f"ours, {_MEANING.get(status, status)}", measures))
    rows[0].measures["memory_mb"] = memory
    return rows


_MEANING = {200: "answered (200)", 429: "refused (429)", 504: "too late (504)", -1: "hung up", 0: "no answer"}
