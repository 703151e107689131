"""Answers a second, closed loop: who is quicker, and what more connections, models or versions cost."""

import os
import subprocess
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.serving import contestants, grpc_load
from benchmarks.serving.contestants import Server
from benchmarks.serving.environments import CACHE
from benchmarks.serving.load import Load
from benchmarks.serving.models import model_file
from benchmarks.serving.questions import Questions, ask_engine
from benchmarks.serving.turns import Lane, Plan, Row, bare_lane, binary_lane, json_lane, take_turns, tell

# The tiny model: server and load on a core each, so that a round differs less from the next. The large: all cores.
ALL_CORES = tuple(sorted(os.sched_getaffinity(0)))
SERVER_CORES, LOAD_CORES = (ALL_CORES[:1], ALL_CORES[1:2]) if len(ALL_CORES) > 1 else ((), ())
MORE_MODELS = 50


def model_and_questions(name: str) -> tuple[Path, Questions]:
    """The model's file, made where it is absent, and what to ask it."""
    path = model_file(name, CACHE / "models")
    return path, ask_engine(name, path)


def start(
    stack: ExitStack, plan: Plan, names: Sequence[str], models: dict[str, Path], cores: Sequence[int]
) -> list[Server]:
    """Those of the servers that the options ask for. A peer that cannot be built or started here is left out."""
    servers = []
    for name in names:
        if name in plan.only and name not in plan.absent:
            tell(f"starting {name}")
            try:
                servers.append(stack.enter_context(contestants.SERVERS[name](models, plan.room(name), cores)))
            except (RuntimeError, OSError, ValueError, subprocess.CalledProcessError) as error:
                if name == "ours":
                    raise
                plan.absent[name] = str(error).partition("\n")[0]
                tell(f"left out: {error}")
    return servers


def tiny_json(plan: Plan) -> list[Row]:
    """The tiny model over JSON with 8 connections, everyone."""
    path, asked = model_and_questions("tiny")
    with ExitStack() as stack:
        servers = start(stack, plan, tuple(contestants.SERVERS), {"tiny": path}, SERVER_CORES)
        lanes = [json_lane(server, asked, plan.seconds, LOAD_CORES) for server in servers]
        if "bare" in plan.only:
            lanes.append(bare_lane(path, plan.seconds, ALL_CORES[:1]))
        return take_turns(plan, "tiny-json", lanes)


def tiny_binary(plan: Plan) -> list[Row]:
    """The tiny model with binary tensors; ours over JSON in the same rounds."""
    path, asked = model_and_questions("tiny")
    with ExitStack() as stack:
        servers = start(stack, plan, ("ours", "triton"), {"tiny": path}, SERVER_CORES)
        lanes = [binary_lane(server, asked, plan.seconds, LOAD_CORES) for server in servers]
        lanes += [
            json_lane(server, asked, plan.seconds, LOAD_CORES, name="ours, JSON")
            for server in servers
            if server.name == "ours"
        ]
        return take_turns(plan, "tiny-binary", lanes)


def tiny_grpc(plan: Plan) -> list[Row]:
    """The tiny model over gRPC with 8 connections: a Python client, and h2load where it is installed."""
    path, asked = model_and_questions("tiny")
    with ExitStack() as stack:
        servers = start(stack, plan, ("ours", "triton"), {"tiny": path}, SERVER_CORES)
        lanes = []
        for way, ask in grpc_load.ways().items():
            for server in servers:

                def measure(server: Server = server, ask: grpc_load.Way = ask) -> Load:
                    return ask(server.grpc_port, asked, 8, plan.seconds, LOAD_CORES)

                lanes.append(Lane(f"{server.name}, {way}", measure, server))
        return take_turns(plan, "tiny-grpc", lanes)


def large(plan: Plan) -> list[Row]:
    """MobileNetV2 in int8 with 8 connections and binary tensors, on all cores."""
    path, asked = model_and_questions("mobilenet")
    with ExitStack() as stack:
        servers = start(stack, plan, ("ours", "triton"), {"mobilenet": path}, ALL_CORES)
        lanes = [binary_lane(server, asked, plan.seconds, ()) for server in servers]
        if "bare" in plan.only:
            lanes.append(bare_lane(path, plan.seconds, ALL_CORES))
        return take_turns(plan, "large", lanes)


def connections(plan: Plan) -> list[Row]:
    """The tiny model over JSON with 8 and with 256 connections, ours."""
    path, asked = model_and_questions("tiny")
    with ExitStack() as stack:
        lanes = [
            json_lane(server, asked, plan.seconds, LOAD_CORES, number, f"{server.name}, {number} connections")
            for server in start(stack, plan, ("ours",), {"tiny": path}, SERVER_CORES)
            for number in (8, 256)
        ]
        return take_turns(plan, "connections", lanes)


def more_models(plan: Plan) -> list[Row]:
    """The tiny model alone in one daemon, and beside 50 more in another, ours."""
    if "ours" not in plan.only:
        return []
    path, asked = model_and_questions("tiny")
    with ExitStack() as stack:
        servers = [
            stack.enter_context(contestants.ours({"tiny": path}, plan.room(name), SERVER_CORES))
            for name in ("alone", "beside")
        ]
        for number in range(MORE_MODELS):
            tell(f"more-models: loading model {number + 1} of {MORE_MODELS}")
            contestants.push(servers[1].port, f"other-{number}", path)
        names = ("ours, 1 model", f"ours, {MORE_MODELS + 1} models")
        lanes = [
            json_lane(server, asked, plan.seconds, LOAD_CORES, name=name)
            for server, name in zip(servers, names, strict=True)
        ]
        return take_turns(plan, "more-models", lanes)


def swaps(plan: Plan) -> list[Row]:
    """New versions of the tiny model are pushed while it is under full load, ours."""
    if "ours" not in plan.only:
        return []
    path, asked = model_and_questions("tiny")
    with contestants.ours({"tiny": path}, plan.room("ours"), SERVER_CORES) as server:
        lane = json_lane(server, asked, plan.seconds, LOAD_CORES)
        over, pushed = threading.Event(), []

        def keep_pushing() -> None:
            while not over.is_set():
                contestants.push(server.port, "tiny", path, f"1.0.{len(pushed) + 1}")
                pushed.append(1)

        pusher = threading.Thread(target=keep_pushing)
        pusher.start()
        try:
            rows = take_turns(plan, "swaps", [lane])
        finally:
            over.set()
            pusher.join()
        rows[0].measures["swaps"] = len(pushed)
        return rows
