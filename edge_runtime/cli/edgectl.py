"""`edgectl`: what an operator does with boxes."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from edge_runtime.cli import box_commands
from edge_runtime.client.errors import ClientError
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.inputs import InputKind
from edge_runtime.contract.manifest import Task

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE
_SET_HELP = "any manifest key under input and output, as output.threshold=0.5 (docs/manifest.md); again and again"
_TO = "the box: a discovered name, HOST:PORT or a URL"

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `edgectl`; returns 0, 1 (failed) or 2 (usage)."""
    args = parser().parse_args(argv)
    command: Command = args.command
    try:
        status = command(args)
        sys.stdout.flush()
    except ClientError as error:
        return _fail(args.name_of_command, str(error))
    except (ContractError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            return _pipe_closed()
        return _fail(args.name_of_command, str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _fail(command: str, message: str) -> int:
    print(f"edgectl {command}: {message}", file=sys.stderr)
    return box_commands.FAILED


def _pipe_closed() -> int:
    # Whoever read our output has left; without this, the interpreter would complain when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="edgectl", description="Find edge-runtime boxes, push models to them, ask them."
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    _add_keys_and_discovery(commands)
    _add_push(commands)
    _add_model_commands(commands)
    return root


def _command(commands: Any, name: str, command: Command, text: str, example: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.set_defaults(command=command, name_of_command=name)
    return added


def _add_keys_and_discovery(commands: Any) -> None:
    added = _command(commands, "keygen", box_commands.keygen, "make a key pair for signing", "edgectl keygen")
    added.add_argument(
        "name", nargs="?", default="default", type=_file_name, help="of the key files (default: default)"
    )
    added.add_argument("--dir", type=Path, metavar="DIR", help="where to (default: ~/.config/edge-runtime)")
    _json(added)
    added = _command(commands, "discover", box_commands.discover, "list the boxes on this network", "edgectl discover")
    _wait(added, "how long to listen")
    _json(added)


def _add_push(commands: Any) -> None:
    added = _command(
        commands,
        "push",
        box_commands.push,
        "send a bundle or a bare .tflite to a box and see it served",
        "edgectl push digits-1.0.0.edgemodel --to kitchen\n"
        "  edgectl push flowers.tflite --to 192.168.1.20:8700 --labels flowers.txt --mean 127.5 --std 127.5\n"
        "  edgectl push faces.tflite --to kitchen --task detection --set output.boxes.format=xyxy",
    )
    added.add_argument("file", type=Path, metavar="FILE", help="a bundle (.edgemodel) or a TFLite model")
    _to(added)
    added.add_argument(
        "--force",
        action="store_true",
        help="try a bundle again that failed its trial here, or replace the content of a version",
    )
    added.add_argument("--timeout", type=_seconds, default=300.0, metavar="SECONDS", help="for the box to decide")
    _json(added)
    bare = added.add_argument_group("for a bare .tflite", "What is not said is read from the model's TFLite Metadata.")
    bare.add_argument("--name", help="of the model (default: the file's)")
    bare.add_argument("--version", help="default: 1.0.0, or the next patch where the box has that model")
    bare.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes, one a line")
    bare.add_argument("--task", choices=get_args(Task))
    _add_input(bare)
    bare.add_argument("--set", action="append", metavar="KEY=VALUE", help=_SET_HELP)
    signing = bare.add_mutually_exclusive_group()
    signing.add_argument("--sign", type=Path, metavar="KEY", help="private key (default: edgectl keygen's, if there)")
    signing.add_argument("--unsigned", action="store_true", help="do not sign")


def _add_input(group: Any) -> None:
    group.add_argument("--input", choices=get_args(InputKind), help="what it takes (default with the next ones: image)")
    group.add_argument("--mean", type=_numbers, metavar="N[,N...]", help="subtracted from 0..255, for each channel")
    group.add_argument("--std", type=_divisors, metavar="N[,N...]", help="what the rest is divided by")
    group.add_argument("--resize", choices=("stretch", "crop", "fit", "none"))
    group.add_argument("--color", choices=("RGB", "BGR", "GRAY"), help="order of the channels")
    group.add_argument("--invert", action="store_true", help="pixels are 255 - pixel first")
    group.add_argument("--full-range", action="store_true", help="0..255 fill the range of an 8-bit input")


def _add_model_commands(commands: Any) -> None:
    added = _command(commands, "models", box_commands.models, "list what a box serves", "edgectl models --to kitchen")
    _to(added)
    _json(added)
    example = "edgectl infer digits seven.png --to kitchen"
    added = _command(
        commands, "infer", box_commands.infer, "ask a model about a picture, WAV, .npy, CSV or JSON", example
    )
    added.add_argument("model", metavar="MODEL")
    added.add_argument("file", metavar="FILE", help='"-": standard input')
    added.add_argument("--raw", action="store_true", help="show the model's output tensors, too")
    added.add_argument("--content-type", metavar="TYPE", help="MIME type (default: as the file looks)")
    _to(added)
    _json(added)
    example = "edgectl rollback digits --to kitchen"
    _on_model(commands, "rollback", box_commands.rollback, "serve the version before again", example)
    example = "edgectl activate digits 1.0.0 --to kitchen"
    added = _on_model(commands, "activate", box_commands.activate, "serve a version that the box still has", example)
    added.add_argument("version", metavar="VERSION")
    example = "edgectl remove digits --to kitchen"
    _on_model(commands, "remove", box_commands.remove, "delete a model with all its versions", example)
    added = _command(commands, "status", box_commands.status, "tell how a box is", "edgectl status --to kitchen")
    _to(added)
    _json(added)
    example = "edgectl watch --to kitchen"
    added = _command(commands, "watch", box_commands.watch, "show a box's health and models until Ctrl-C", example)
    _to(added)
    added.add_argument("--count", type=int, default=0, metavar="N", help="stop after N times")
    added.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS")


def _on_model(commands: Any, name: str, command: Command, text: str, example: str) -> argparse.ArgumentParser:
    added = _command(commands, name, command, text, example)
    added.add_argument("model", metavar="MODEL")
    _to(added)
    _json(added)
    return added


def _to(added: argparse.ArgumentParser) -> None:
    added.add_argument("--to", required=True, metavar="BOX", help=_TO)
    _wait(added, "how long to listen for a discovered name")


def _wait(added: argparse.ArgumentParser, text: str) -> None:
    added.add_argument("--wait", type=_seconds, default=3.0, metavar="SECONDS", help=f"{text} (default: 3)")


def _json(added: argparse.ArgumentParser) -> None:
    added.add_argument("--json", action="store_true", help="print JSON")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds")
    return seconds


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _divisors(text: str) -> tuple[float, ...]:
    numbers = _numbers(text)
    if not all(numbers):
        raise argparse.ArgumentTypeError("0 divides nothing")
    return numbers


def _file_name(text: str) -> str:
    if not text or "/" in text or text.startswith((".", "-")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file name; the folder goes to --dir")
    return text


if __name__ == "__main__":
    sys.exit(main())
