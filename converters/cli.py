"""edge-convert: from a trained model to a small, verified, signed bundle."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from converters import bundling, pipeline, report
from converters.errors import ConvertError, GateError
from converters.quantize import SCHEMES
from edge_runtime.contract import names, outputs, settings, signing
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.inputs import InputKind
from edge_runtime.contract.outputs import Task
from edge_runtime.contract.settings import Declarations

_FILE_NAME = re.compile(r"(?P<name>.+)-(?P<version>\d+\.\d+\.\d+)" + re.escape(names.BUNDLE_SUFFIX))
_SET_HELP = "any manifest key under input and output, as output.threshold=0.5 (docs/manifest.md); again and again"
_UNSIGNED = (
    "note: not signed: a box refuses it unless its config says [trust] require_signature = false;"
    " sign with --sign KEY (`edgectl keygen` makes one)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 failed, 2 used wrongly."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        options = _options(arguments)
    except ContractError as error:
        parser.error(str(error))
    try:
        return _run(options, arguments.report, as_json=arguments.json)
    except (ConvertError, ContractError, OSError, MemoryError) as error:
        print(f"edge-convert: {error or 'out of memory'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("edge-convert: interrupted, nothing was written", file=sys.stderr)
        return 1


def _run(options: pipeline.Options, report_path: Path | None, *, as_json: bool) -> int:
    for target in (options.output, report_path):
        if target is not None:
            bundling.check_writable(target)
    outcome = pipeline.convert(options)
    for warning in outcome.facts["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    signer = signing.keyid(signing.load_private(options.key).public_key()) if options.key else None
    document = report.document(outcome, options.output, signer)
    if outcome.bundle is not None:
        bundling.write_whole(options.output, outcome.bundle)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if report_path is not None:
        bundling.write_whole(report_path, text.encode() + b"\n")
    print(text if as_json else report.table(document))
    if outcome.bundle is None:
        raise GateError(report.refusal(document))
    if options.key is None:
        print(_UNSIGNED, file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-convert",
        description="Quantize a trained model, prove it against the original and write a bundle for edge-runtime.",
        epilog="Data is .npz: arrays named by input (or x), first axis samples, real values as the model takes them"
        " (after normalization); y: true classes.",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a float .tflite")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="NAME-1.0.0.edgemodel")
    parser.add_argument("--name", help="model name (default: from the output's file name)")
    parser.add_argument("--version", help="MAJOR.MINOR.PATCH (default: from the output's file name)")
    parser.add_argument("--quantize", choices=SCHEMES, default="int8", help="default: %(default)s")
    parser.add_argument("--calibrate", type=Path, metavar="DATA.npz", help="samples that ranges are learned from")
    parser.add_argument(
        "--evaluate", type=Path, metavar="DATA.npz", help="held-out samples (default: a fifth of --calibrate)"
    )
    parser.add_argument("--task", choices=get_args(Task), help="default: guessed from the outputs")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line")
    _add_input(parser.add_argument_group("input", "how a box makes the first input: real = (raw - mean) / std"))
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help=_SET_HELP)
    parser.add_argument("--sign", type=Path, metavar="KEY", help="private key (PEM) from `edgectl keygen`")
    parser.add_argument(
        "--report", type=_json_path, metavar="FILE.json", help="write the numbers, with latency, here too"
    )
    parser.add_argument("--max-drop", type=_share, default=0.02, metavar="SHARE", help="the gate; default: %(default)s")
    parser.add_argument(
        "--force", action="store_true", help="write the bundle though the gate refuses it; it will say so"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    return parser


def _add_input(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--input", choices=get_args(InputKind), help="what a box takes (more: --set input...)")
    group.add_argument("--mean", type=float, nargs="+", metavar="M", help="one value, or one a channel")
    group.add_argument("--std", type=float, nargs="+", metavar="S", help="one value, or one a channel")
    group.add_argument(
        "--resize", choices=("stretch", "crop", "fit", "none"), help="how a picture gets the input's size"
    )
    group.add_argument("--invert", action="store_true", help="pixels are 255 - pixel first")


def _options(arguments: argparse.Namespace) -> pipeline.Options:
    if arguments.output.suffix != names.BUNDLE_SUFFIX:
        raise ContractError(f"-o {arguments.output}: a bundle's name ends in {names.BUNDLE_SUFFIX}")
    match = _FILE_NAME.fullmatch(arguments.output.name)
    for option in ("name", "version"):
        given = getattr(arguments, option)
        if match and given not in (None, match[option]):
            raise ContractError(
                f"-o {arguments.output} says {option} {match[option]}, but --{option} says {given}: they contradict"
                f" each other; leave --{option} out or name the file after it"
            )
    name = arguments.name or (match and match["name"])
    version = arguments.version or (match and match["version"])
    if not name or not version:
        raise ContractError(
            f"-o {arguments.output}: call it NAME-1.0.0{names.BUNDLE_SUFFIX}, or give --name and --version"
        )
    names.sequence_of(version)
    said = _declared(arguments)
    outputs.check_task(arguments.task, said.output)
    return pipeline.Options(
        source=arguments.source,
        output=arguments.output,
        name=names.check_model_name(name),
        version=version,
        scheme=arguments.quantize,
        calibrate=arguments.calibrate,
        evaluate=arguments.evaluate,
        task=arguments.task,
        labels=arguments.labels,
        input=said.input,
        answer=said.output,
        key=arguments.sign,
        max_drop=arguments.max_drop,
        force=arguments.force,
    )


def _declared(arguments: argparse.Namespace) -> Declarations:
    given = {
        "kind": arguments.input,
        "resize": arguments.resize,
        "mean": arguments.mean and tuple(arguments.mean),
        "std": arguments.std and tuple(arguments.std),
        "invert": arguments.invert or None,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if arguments.input != "image" and (arguments.resize or arguments.invert):
        raise ContractError("--resize and --invert are for pictures: add --input image")
    return settings.declare(arguments.set or (), {"input": given} if given else None)


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be 0 to 1, but is {text}")
    return value


def _json_path(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".json":
        raise argparse.ArgumentTypeError(f"{text}: the report is JSON, so name it FILE.json")
    return path


if __name__ == "__main__":
    sys.exit(main())
