"""What each subcommand of `edgectl` does; each returns the exit status."""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.cli import answer
from edge_runtime.cli.table import printable, render
from edge_runtime.client import discovery
from edge_runtime.client.discovery import Box
from edge_runtime.client.errors import ClientError
from edge_runtime.contract import settings
from edge_runtime.contract.settings import Declarations

# The HTTP client, cryptography, tqdm and zeroconf are imported where they are used: `edgectl --help` answers at once.

MAX_INPUT_BYTES = 256 * 1024 * 1024
OK, FAILED, USAGE = 0, 1, 2


def keygen(args: argparse.Namespace) -> int:
    """Make a key pair."""
    from edge_runtime.client.wrap import default_key  # noqa: PLC0415
    from edge_runtime.contract import signing  # noqa: PLC0415

    directory = args.dir or default_key().parent
    try:
        private, public = signing.generate(directory, args.name)
    except FileExistsError as error:
        there = error.filename or directory / f"{args.name}.pub"
        raise ClientError(f"{there} exists and is not overwritten; choose another name") from error
    if args.json:
        _print_json({"private": str(private), "public": str(public), "keyid": signing.load_public(public).keyid})
        return OK
    print(f"private key: {private}   (signs bundles; keep it, and keep it secret)")
    print(f"public key:  {public}")
    print(f"Copy {public.name} to /etc/edge-runtime/trusted/ on each box that shall take what this key signs.")
    return OK


def discover(args: argparse.Namespace) -> int:
    """List the boxes that can be heard."""
    boxes = discovery.discover(args.wait)
    if args.json:
        _print_json([dataclasses.asdict(box) for box in boxes])
    elif boxes:
        rows = [(box.name, box.url.partition("://")[2], box.version, ", ".join(box.models) or "-") for box in boxes]
        print(render(("NAME", "ADDRESS", "VERSION", "MODELS"), rows))
    else:
        print(f"no box was heard within {args.wait:g} s", file=sys.stderr)
    return OK


def push(args: argparse.Namespace) -> int:
    """Send a bundle or a bare model, and follow it to its end."""
    from edge_runtime.client import wrap  # noqa: PLC0415
    from edge_runtime.client.box import BoxClient  # noqa: PLC0415

    bare = wrap.kind_of(args.file) == "model"
    if not bare and (given := _wrap_flags(args)):
        print(f"edgectl push: {args.file} is a bundle, which says this itself: leave out {given}", file=sys.stderr)
        return USAGE
    box = discovery.resolve(args.to, args.wait)
    with BoxClient(box.url) as client, tempfile.TemporaryDirectory() as folder:
        bundle = args.file
        if bare:
            bundle = Path(folder) / "wrapped.edgemodel"
            _wrap(args, bundle, client.models())
        upload = _upload(client, bundle, args)
        told = (
            (lambda _: None)
            if args.json
            else lambda deployment: deployment.final or print(deployment.state, flush=True)
        )
        deployment = client.wait_deployment(upload, told, args.timeout)
    if args.json:
        _print_json(dataclasses.asdict(deployment) | {"box": box.name})
    elif deployment.committed:
        print(printable(f"COMMITTED {deployment.model} {deployment.version} on {box.name}"))
    if deployment.committed:
        return OK
    verb = "refused" if deployment.state == "REFUSED" else "rolled back"
    print(printable(f"{verb}: {deployment.reason or 'the box gave no reason'}"), file=sys.stderr)
    return FAILED


def models(args: argparse.Namespace) -> int:
    """List what a box serves."""
    with _client(args)[1] as client:
        listed = client.models()
    if args.json:
        _print_json(listed)
    else:
        print(_models_table(listed) if listed else "no models")
    return OK


def infer(args: argparse.Namespace) -> int:
    """Ask a model about a file."""
    data = _read_input(args.file)
    kind = args.content_type or answer.content_type(args.file, data)
    with _client(args)[1] as client:
        document = client.predict(args.model, data, kind, raw=args.raw)
    if args.json:
        _print_json(document)
    else:
        print("\n".join(answer.lines(document)))
    return OK


def rollback(args: argparse.Namespace) -> int:
    """Serve the version before."""
    with _client(args)[1] as client:
        return _switched(client.rollback(args.model), args)


def activate(args: argparse.Namespace) -> int:
    """Serve a version that the box has."""
    with _client(args)[1] as client:
        return _switched(client.activate(args.model, args.version), args)


def remove(args: argparse.Namespace) -> int:
    """Delete a model."""
    with _client(args)[1] as client:
        document = client.remove(args.model)
    if args.json:
        _print_json(document)
    else:
        print(printable(f"removed {document.get('removed', args.model)}"))
    return OK


def status(args: argparse.Namespace) -> int:
    """Tell how a box is; fails where the box has."""
    with _client(args)[1] as client:
        document = client.status()
    if args.json:
        _print_json(document)
    else:
        print("\n".join(_status_lines(document)))
    return FAILED if document.get("status") == "failed" else OK


def watch(args: argparse.Namespace) -> int:
    """Show health and models again and again, until Ctrl-C or `--count`."""
    box, client = _client(args)
    shown = 0
    with client:
        while True:
            text = _snapshot(client, box)
            clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
            print(f"{clear}{text}", flush=True)
            shown += 1
            if args.count and shown >= args.count:
                return OK
            time.sleep(args.interval)


def _snapshot(client: Any, box: Box) -> str:
    try:
        health, listed = client.status(), client.models()
    except ClientError as error:
        return printable(f"{box.name}: {error}")
    return "\n".join([*_status_lines(health), "", _models_table(listed) if listed else "no models"])


def _client(args: argparse.Namespace) -> Any:
    from edge_runtime.client.box import BoxClient  # noqa: PLC0415

    box = discovery.resolve(args.to, args.wait)
    return box, BoxClient(box.url)


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _wrap_flags(args: argparse.Namespace) -> str:
    flags = ("name", "version", "labels", "task", "input", "mean", "std", "resize", "color", "set", "sign")
    given = [flag for flag in flags if getattr(args, flag) is not None]
    given += [flag for flag in ("invert", "full_range", "unsigned") if getattr(args, flag)]
    return ", ".join("--" + flag.replace("_", "-") for flag in given)


def _wrap(args: argparse.Namespace, target: Path, on_box: list[dict[str, Any]]) -> None:
    from edge_runtime.client import wrap  # noqa: PLC0415

    labels = _read_file(args.labels) if args.labels else None
    said = declared(args)
    options = wrap.WrapOptions(args.name or "", args.version or "", args.task, said.input, labels, said.output)
    key = args.sign or wrap.default_key()
    if args.unsigned or (args.sign is None and not key.exists()):
        key = None
    with target.open("wb") as file:
        manifest = wrap.wrap(args.file, file, options, key=key, on_box=on_box)
    signed = f"signed with {key}" if key else "not signed"
    print(f"{args.file.name} becomes the bundle {manifest.name} {manifest.version}, {signed}", file=sys.stderr)


def declared(args: argparse.Namespace) -> Declarations:
    """What the options say of input and output. Raises ContractError (an unknown key, a std of 0)."""
    said = {name: getattr(args, name) for name in ("mean", "std", "resize", "color") if getattr(args, name) is not None}
    said |= {name: True for name in ("invert", "full_range") if getattr(args, name)}
    if args.input is not None or said:
        # Who speaks of colours or of pixels' mean speaks of pictures.
        said["kind"] = args.input or "image"
    return settings.declare(args.set or (), {"input": said} if said else None)


def _upload(client: Any, path: Path, args: argparse.Namespace) -> str:
    from tqdm import tqdm  # noqa: PLC0415

    size, name = path.stat().st_size, args.file.name
    with tqdm(total=size, unit="B", unit_scale=True, desc=name, file=sys.stderr, disable=None) as bar:
        upload: str = client.push(
            path, filename=args.file.name, progress=lambda sent, _: bar.update(sent - bar.n), force=args.force
        )
    return upload


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror or error}") from error


def _read_input(name: str) -> bytes:
    if name != "-" and Path(name).is_file() and Path(name).stat().st_size > MAX_INPUT_BYTES:
        raise ClientError(f"{name} has more than {MAX_INPUT_BYTES} bytes")
    return sys.stdin.buffer.read(MAX_INPUT_BYTES) if name == "-" else _read_file(Path(name))


def _models_table(listed: list[dict[str, Any]]) -> str:
    head = ("NAME", "VERSION", "STATE", "TASK", "ENGINE", "INPUT", "SIGNED BY", "OTHER VERSIONS")
    return render(head, map(_model_row, listed))


def _model_row(model: Mapping[str, Any]) -> tuple[str, ...]:
    inputs = ", ".join(f"{i.get('datatype', '')}{list(i.get('shape') or [])}" for i in model.get("inputs") or ())
    others = [str(v.get("version")) for v in model.get("versions") or () if not v.get("active")]
    engine = " ".join(filter(None, (model.get("engine"), model.get("kernels"))))
    known = (model.get("name"), model.get("version"), model.get("state"), model.get("task"), engine, inputs)
    return tuple(str(value or "-") for value in (*known, model.get("signed_by"), ", ".join(others)))


def _status_lines(document: Mapping[str, Any]) -> list[str]:
    uptime = document.get("uptime_seconds")
    running = f", up {uptime:.0f} s" if isinstance(uptime, int | float) else ""
    software = f"edge-runtime {document.get('version', '?')}{running}"
    head = f"{document.get('device', '?')}: {document.get('status')} ({software})"
    problems = document.get("problems") or {}
    return [printable(head), *(printable(f"  {name}: {problem}") for name, problem in problems.items())]


def _switched(document: Mapping[str, Any], args: argparse.Namespace) -> int:
    if args.json:
        _print_json(document)
    else:
        was = f" (was {document['previous']})" if document.get("previous") else ""
        print(printable(f"{document.get('model', args.model)} serves {document.get('version')}{was}"))
    return OK
