"""From what a person or a sensor has (a picture, sound, numbers) to the model's input tensors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import inputs as contract
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.inputs import InputDeclaration
from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.inputs import document as documents
from edge_runtime.inference.inputs.arrays import fill
from edge_runtime.inference.inputs.limits import MAX_PICTURE_PIXELS, Limits, Windows
from edge_runtime.inference.inputs.picture import from_picture, picture_format, read_picture
from edge_runtime.inference.inputs.wav import is_wav

__all__ = ["Limits", "Windows", "check_document_size", "picture_format", "prepare", "read_picture", "to_tensor"]

# How long a number may be in JSON, its comma and brackets included.
_NUMBER_BYTES = 40
_DOCUMENT_BYTES = 64 * 1024
_OTHER_COLUMNS = 64  # that a CSV may have beside those of the model
# What programs send that were not told the type.
_UNTOLD = ("", "application/octet-stream", "application/x-www-form-urlencoded", "text/plain")


def prepare(
    data: bytes | NDArray[Any],
    content_type: str,
    specs: Sequence[TensorSpec],
    declaration: InputDeclaration | None,
    limits: Limits | None = None,
) -> Windows:
    """The input tensors of a model for a picture, a recording, a document or an array of real values.

    A recording, or readings, longer than the model's window give several sets of tensors, to be run one after another.

    Raises:
        CallerError: the data cannot be read, does not fit the model, or is more than `limits` allow.
    """
    limits = limits or Limits()
    kind = content_type.partition(";")[0].strip().lower()
    if isinstance(data, bytes) and (named := _named_arrays(data, kind, specs, limits)) is not None:
        return _several(named, specs, declaration, limits)
    if len(specs) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise CallerError(
            f'this model has {len(specs)} inputs ({names}): send JSON {{"inputs": {{"{specs[0].name}": [...], ...}}}}, '
            "or tensors to /v2"
        )
    return _one_input(data, kind, specs[0], declaration, limits)


def to_tensor(
    data: bytes | NDArray[Any],
    content_type: str,
    spec: TensorSpec,
    declaration: InputDeclaration | None,
    *,
    max_pixels: int = MAX_PICTURE_PIXELS,
) -> NDArray[Any]:
    """The one input tensor of `spec`; see `prepare`.

    Returns an array in the stored dtype with the full shape, batch dimension included (open dimensions are 1,
    or what the data has).

    Raises:
        CallerError: the data cannot be read, does not fit the model, or gives more than one window.
    """
    windows = prepare(data, content_type, (spec,), declaration, Limits(max_pixels=max_pixels))
    if len(windows.runs) > 1:
        raise CallerError(f"the input is longer than the model's window: it gives {len(windows.runs)} of them")
    return windows.runs[0][spec.name]


def work_bytes(data: bytes | NDArray[Any]) -> int:
    """How much work an input is, for whoever decides where it is done; -1 where its size says nothing about it."""
    if not isinstance(data, bytes):
        return data.nbytes
    return -1 if picture_format(data) is not None or is_wav(data) else len(data)


def sees_all(declaration: InputDeclaration) -> bool:
    """Whether the whole of a picture, and nothing else, gets into the input."""
    return declaration.resize == "stretch" and declaration.crop_fraction == 1.0


def check_declaration(spec: TensorSpec, declaration: InputDeclaration | None) -> None:
    """Go through what is declared once, with silence, rest or black.

    Raises:
        CallerError, ContractError: it does not fit the model's input.
    """
    if spec.datatype == "BYTES" or declaration is None:
        return
    contract.check_fits(declaration, spec.shape)
    shape: tuple[int, ...] = tuple(max(1, n) for n in spec.shape)
    if declaration.kind == "series":
        shape = declaration.readings.window(spec.shape)
    elif declaration.kind == "audio":
        shape = (declaration.sound.window(spec.shape), declaration.sound.channels)
    prepare(np.zeros(shape), "", (spec,), declaration, Limits(max_audio_seconds=math.inf))


def check_document_size(
    size: int, spec: TensorSpec, max_samples: int, declaration: InputDeclaration | None = None
) -> None:
    """Refuse a JSON document that is larger than any that fits `spec`, before time goes into parsing it.

    Raises:
        CallerError: TOO_LARGE. An input with open dimensions other than its batch takes any size.
    """
    if any(n < 0 for n in spec.shape[1:]) or (declaration is not None and declaration.kind in ("audio", "series")):
        return
    samples = max_samples if spec.shape[:1] == (-1,) else 1
    limit = _DOCUMENT_BYTES + _NUMBER_BYTES * samples * math.prod(abs(n) for n in spec.shape)
    if size > limit:
        raise CallerError(
            f"the document has {size} bytes, more than any that fits {spec.name!r} ({list(spec.shape)})", Code.TOO_LARGE
        )


def _one_input(
    data: bytes | NDArray[Any], kind: str, spec: TensorSpec, declaration: InputDeclaration | None, limits: Limits
) -> Windows:
    if not isinstance(data, bytes):
        return _from_array(np.asarray(data), spec, declaration, limits)
    form = picture_format(data)
    if form is not None or kind.startswith("image/"):
        return _single(spec, from_picture(data, form, spec, declaration, limits.max_pixels))
    if is_wav(data) or kind.startswith("audio/"):
        return _from_wav(data, kind, spec, declaration, limits)
    if data.startswith(documents.NPY_MAGIC):
        return _from_array(documents.npy_array(data), spec, declaration, limits)
    if kind in _UNTOLD and documents.looks_like_table(data):
        kind = "text/csv"
    _check_size(data, kind, spec, declaration, limits)
    if kind == "text/csv":
        columns = declaration.readings.columns if declaration else ()
        return _from_array(documents.csv_array(data, columns), spec, declaration, limits)
    document = documents.json_document(data, kind)
    return _from_array(documents.json_array(document), spec, declaration, limits)


def _check_size(data: bytes, kind: str, spec: TensorSpec, declaration: InputDeclaration | None, limits: Limits) -> None:
    """Refuse a document that has more than the limits allow, before time goes into parsing it."""
    check_document_size(len(data), spec, limits.max_samples, declaration)
    if declaration is None or declaration.kind not in ("audio", "series"):
        return
    if declaration.kind == "audio":
        channels = declaration.sound.channels
        lines = int(limits.max_audio_seconds * declaration.sound.sample_rate)
        most = f"{limits.max_audio_seconds:g} s of sound (engine.max_audio_seconds)"
    else:
        size, channels = declaration.readings.window(spec.shape)
        lines = size + (declaration.readings.hop_samples or size) * limits.max_windows
        most = f"{limits.max_windows} windows (engine.max_windows)"
    if kind == "text/csv":
        cells = sum(map(data.count, (b",", b";", b"\t", b" ")))
        too_many = data.count(b"\n") > lines + 1 or cells > lines * (channels + _OTHER_COLUMNS)
    else:
        too_many = len(data) > _NUMBER_BYTES * lines * channels
    if too_many and len(data) > _DOCUMENT_BYTES:
        raise CallerError(f"the document has {len(data)} bytes, more than {most} can have", Code.TOO_LARGE)


def _from_wav(
    data: bytes, kind: str, spec: TensorSpec, declaration: InputDeclaration | None, limits: Limits
) -> Windows:
    from edge_runtime.inference.inputs import audio, wav  # noqa: PLC0415 - start-up: only where sound is used

    if declaration is None or declaration.kind != "audio":
        raise CallerError(
            f"this model does not say that it takes sound: its input {spec.name!r} has the shape {list(spec.shape)}; "
            "if it does, push it again with --input audio",
            Code.UNSUPPORTED_MEDIA,
        )
    if not is_wav(data):
        raise CallerError(
            f"sound is taken as WAV, but this ({kind}, {len(data)} bytes) is none", Code.UNSUPPORTED_MEDIA
        )
    return audio.from_recording(wav.read(data, limits.max_audio_seconds), spec, declaration, limits)


def _from_array(raw: NDArray[Any], spec: TensorSpec, declaration: InputDeclaration | None, limits: Limits) -> Windows:
    if declaration is None or spec.datatype == "BYTES" or declaration.kind in ("image", "tensor"):
        return _single(spec, fill(raw, spec, declaration))
    size = math.prod(abs(n) for n in spec.shape)
    if declaration.kind == "series":
        from edge_runtime.inference.inputs import series  # noqa: PLC0415 - start-up: only where readings are used

        return series.from_readings(raw, spec, declaration, limits)
    if declaration.sound.features is not None and raw.size == size:
        return _single(spec, _ready_features(raw, spec, declaration))
    from edge_runtime.inference.inputs import audio  # noqa: PLC0415 - start-up: only where sound is used

    if not np.isfinite(raw).all():
        raise CallerError("the input has values that are not finite (NaN or infinity)")
    return audio.from_samples(raw, spec, declaration, limits)


def _ready_features(raw: NDArray[Any], spec: TensorSpec, declaration: InputDeclaration) -> NDArray[Any]:
    """Features that somebody computed already: real values, or stored ones in the dtype of the tensor."""
    if spec.quantized and raw.dtype == np.dtype(NUMPY_NAMES[spec.datatype]):
        return raw.reshape([1 if n < 0 else n for n in spec.shape])
    return fill(raw, spec, declaration)


def _single(spec: TensorSpec, tensor: NDArray[Any]) -> Windows:
    return Windows(({spec.name: tensor},))


def _named_arrays(data: bytes, kind: str, specs: Sequence[TensorSpec], limits: Limits) -> Mapping[str, Any] | None:
    """The arrays of {"inputs": {...}}; None for anything else."""
    head = data[:64].lstrip()
    if not head.startswith(b"{") or not head[1:].lstrip().startswith(b'"inputs"'):
        return None
    if not any(n < 0 for spec in specs for n in spec.shape[1:]):
        values = sum(math.prod(abs(n) for n in spec.shape) for spec in specs)
        if len(data) > _DOCUMENT_BYTES + _NUMBER_BYTES * limits.max_samples * values:
            raise CallerError(f"the document has {len(data)} bytes, more than any that fits the model", Code.TOO_LARGE)
    document = documents.json_document(data, kind)
    if not isinstance(document["inputs"], dict) or len(document) > 1:
        raise CallerError('"inputs" must be a JSON object of arrays by name, and nothing beside it; for OIP use /v2')
    names = [spec.name for spec in specs]
    if set(document["inputs"]) != set(names):
        raise CallerError(f"inputs must be {names}, but are {sorted(document['inputs'])}")
    return dict(document["inputs"])


def _several(
    named: Mapping[str, Any], specs: Sequence[TensorSpec], declaration: InputDeclaration | None, limits: Limits
) -> Windows:
    """Arrays by name; what is declared is said of the first input."""
    arrays = {}
    for spec in specs:
        try:
            arrays[spec.name] = documents.json_array({"input": named[spec.name]})
        except CallerError as error:
            raise CallerError(f"input {spec.name!r}: {error}", error.code) from error
    first, *others = specs
    windows = _from_array(arrays[first.name], first, declaration, limits)
    if others and len(windows.runs) > 1:
        raise CallerError(f"input {first.name!r} is longer than the model's window")
    rest = {spec.name: fill(arrays[spec.name], spec, None) for spec in others}
    return Windows(tuple({**run, **rest} for run in windows.runs), windows.starts, windows.unit)


def fits(spec: TensorSpec, declaration: InputDeclaration) -> bool:
    """Whether what a model's metadata declare can be true of its input."""
    try:
        contract.check_fits(declaration, spec.shape)
    except ContractError:
        return False
    return True
