"""`edge-runtime`: the command on the box."""

import argparse
import asyncio
import importlib.util
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_runtime import __version__
from edge_runtime import config as configuration
from edge_runtime.config import Config
from edge_runtime.errors import EdgeError
from edge_runtime.system import event_loop, trace_context

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 (failed) or 2 (usage)."""
    options = _parser().parse_args(arguments)
    try:
        config = configuration.load(options.config, options.set)
        logging.basicConfig(
            level=config.log.level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s%(trace)s",
            stream=sys.stderr,
        )
        for handler in logging.getLogger().handlers:
            handler.addFilter(trace_context.TraceIds())
        return int(options.run(config, options))
    except EdgeError as error:
        print(f"edge-runtime: {error}", file=sys.stderr)
        return _EXIT_FAILED
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration in TOML (default: {configuration.DEFAULT_PATH}, if there)",
    )
    common.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, for example http.port=8700"
    )
    parser = argparse.ArgumentParser(prog="edge-runtime", description="Serves TFLite models on this box.")
    parser.add_argument("--version", action="version", version=f"edge-runtime {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", parents=[common], help="run the daemon until SIGTERM or Ctrl-C")
    serve.set_defaults(run=_serve)
    check = commands.add_parser("check", parents=[common], help="read the configuration and say what it means")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_check)
    tuned = commands.add_parser(
        "tune", parents=[common], help="measure how each model runs best on this box, and run it so from now on"
    )
    tuned.add_argument("models", nargs="*", metavar="MODEL", help="default: all that are served")
    tuned.add_argument("--objective", choices=("latency", "throughput"), help="instead of the configuration's")
    tuned.add_argument("--json", action="store_true", help="print JSON: what was measured, too")
    tuned.set_defaults(run=_tune)
    return parser


def _tune(config: Config, options: argparse.Namespace) -> int:
    from edge_runtime.cli import tune  # noqa: PLC0415 - only here

    return tune.run(config, options)


def _serve(config: Config, _: argparse.Namespace) -> int:
    with asyncio.Runner(loop_factory=event_loop.factory()) as runner:
        runner.run(_until_signal(config))
    _leave_stuck_threads()
    return 0


def _leave_stuck_threads() -> None:
    """End now if a model still runs: nothing can interrupt it, and Python would wait for its thread for ever."""
    stuck = [
        t.name for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon and t.is_alive()
    ]
    if stuck:
        logging.getLogger(__name__).warning("leaving %s behind in a model that does not end", ", ".join(stuck))
        logging.shutdown()
        os._exit(0)


async def _until_signal(config: Config) -> None:
    from edge_runtime import app  # noqa: PLC0415 - `--help` must not load the engine

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await app.serve(config, stop)
    except* EdgeError as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[EdgeError]) -> EdgeError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, EdgeError) else EdgeError(str(error))


def _check(config: Config, options: argparse.Namespace) -> int:
    from edge_runtime.deploy import trusted_keys  # noqa: PLC0415 - see _until_signal
    from edge_runtime.inference import engine  # noqa: PLC0415 - see _until_signal
    from edge_runtime.transports.grpc import extra as grpc_extra  # noqa: PLC0415 - see _until_signal
    from edge_runtime.transports.otlp import extra as otlp_extra  # noqa: PLC0415 - see _until_signal

    warnings: list[str] = []
    keys = trusted_keys.load(config.trust, warnings)
    if not config.trust.require_signature:
        warnings = ["unsigned bundles are accepted: anyone who reaches the port can install any model"]
    grpc_on = config.grpc.enabled and grpc_extra.installed()
    if config.grpc.enabled and not grpc_on:
        warnings.append("gRPC is off: it needs the extra, pip install 'edge-runtime[grpc]'")
    problems = []
    if config.mqtt.url == "embedded" and importlib.util.find_spec("amqtt") is None:
        problems.append("the embedded broker needs the extra: pip install 'edge-runtime[broker]'")
    if config.telemetry.otlp_endpoint and not otlp_extra.installed():
        problems.append(otlp_extra.MISSING)
    try:
        chosen = engine.choose(config.engine.name)
        engine_name = f"{chosen.name} {chosen.version}"
    except EdgeError as error:
        problems.append(str(error))
        engine_name = "none"
    found: dict[str, Any] = {
        "device": config.device.name,
        "state_dir": config.device.state_dir,
        "http": f"{config.http.host}:{config.http.port}",
        "grpc": f"{config.http.host}:{config.grpc.port}" if grpc_on else "off",
        "mqtt": config.mqtt.url or "off",
        "engine": engine_name,
        "trusted_keys": [f"{key.name} ({key.keyid})" for key in keys],
        "require_signature": config.trust.require_signature,
        "pipelines": [f"{p.name}: {p.source.port} -> {p.model}" for p in config.pipeline],
        "warnings": warnings,
        "problems": problems,
    }
    print(json.dumps(found, indent=2) if options.json else "\n".join(_lines(found)))
    return _EXIT_FAILED if problems else 0


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for key, value in found.items():
        yield f"{key:18} {'; '.join(value) if isinstance(value, list) else value}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
