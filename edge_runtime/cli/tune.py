"""`edge-runtime tune`: measure which setup is best for a model on this box, and use it from now on."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.cli.table import render
from edge_runtime.config import Config, HttpConfig, engine_for
from edge_runtime.errors import DeviceError, EdgeError
from edge_runtime.system.ownership import StateInUseError, own_state

_EXIT_FAILED = 1
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - compared, not bound

Progress = Callable[[float], None]


def run(config: Config, options: argparse.Namespace) -> int:
    """Ask the daemon where one runs; else measure here, so that the next daemon finds it. Returns the exit status."""
    try:
        with own_state(Path(config.device.state_dir)):
            results = _here(config, options)
    except StateInUseError:
        results = _ask_daemon(config, options)
    if options.json:
        print(json.dumps({"tuned": results}, indent=2))
    else:
        print(_table(results))
    return _EXIT_FAILED if any(result["error"] for result in results) else 0


def _ask_daemon(config: Config, options: argparse.Namespace) -> list[dict[str, Any]]:
    from edge_runtime.client.box import BoxClient  # noqa: PLC0415 - see run
    from edge_runtime.client.errors import ClientError  # noqa: PLC0415 - see run

    with BoxClient(_url(config.http)) as box:

        def tune(model: str, progress: Progress) -> dict[str, Any]:
            try:
                return box.tune(model, options.objective, progress)
            except ClientError as error:
                return {"error": str(error)}

        try:
            served = [str(document["name"]) for document in box.models()]
        except ClientError as error:
            raise DeviceError(str(error)) from error
        return _each(options.models or served, tune)


def _url(http: HttpConfig) -> str:
    if not http.port:
        raise DeviceError(
            "a daemon runs on a port that the system chose (http.port = 0): give it with --set http.port="
        )
    return f"http://{_ANYWHERE.get(http.host, http.host)}:{http.port}"


def _here(config: Config, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Without a daemon; its state is ours meanwhile."""
    from edge_runtime.deploy.store import Store  # noqa: PLC0415 - see run
    from edge_runtime.deploy.tuner import Tuner  # noqa: PLC0415 - see run
    from edge_runtime.system import state  # noqa: PLC0415 - see run

    folder = Path(config.device.state_dir)
    store = Store(state.connect(folder / state.FILE_NAME), folder)
    tuner = Tuner(config.deploy, config.engine, config.model, store)

    def tune(model: str, progress: Progress) -> dict[str, Any]:
        known = store.version((store.served(model) or ("", None))[0])
        if known is None or known.description is None:
            return {"error": f"model {model!r} is not on this box" if known is None else "start the daemon once first"}
        measured = tuner.measure(known.manifest, known.description, objective=options.objective, progress=progress)
        try:
            tuning = asyncio.run(measured)
        except EdgeError as error:
            return {"error": str(error)}
        view = tuning.view(engine_for(config.engine, config.model, model).objective)
        return {"setup": view["chosen"], "tuning": view}

    try:
        return _each(options.models or store.models(), tune)
    finally:
        store.close()


def _each(models: Sequence[str], tune: Callable[[str, Progress], dict[str, Any]]) -> list[dict[str, Any]]:
    from tqdm import tqdm  # noqa: PLC0415 - see run

    results = []
    for model in models:
        shape = "{desc} {bar} {n:.0f} %"
        with tqdm(total=100, desc=model, unit="%", file=sys.stderr, bar_format=shape, disable=None) as bar:

            def show(done: float, bar: Any = bar) -> None:
                bar.update(round(100 * done) - bar.n)

            results.append({"model": model, "error": ""} | tune(model, show))
    return results


def _table(results: Sequence[dict[str, Any]]) -> str:
    if not results:
        return "there is no model on this box"
    rows = []
    for result in results:
        tuning = result.get("tuning") or {}
        best = next((c for c in tuning.get("candidates", ()) if c["setup"] == tuning["chosen"]), None)
        numbers = (f"{best['latency_p50_ms']:.3g}", f"{best['per_second']:.4g}") if best else ("-", "-")
        said = result["error"] or result.get("setup") or "nothing could be measured"
        rows.append((result["model"], tuning.get("objective", "-"), *numbers, said))
    return render(("MODEL", "OBJECTIVE", "MS", "PER SECOND", "SETUP"), rows)
