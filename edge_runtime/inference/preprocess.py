"""From what a person or a sensor has (a picture, numbers) to the model's first input tensor."""

import io
import json
import math
import re
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.manifest import InputDeclaration
from edge_runtime.contract.quantization import quantize
from edge_runtime.contract.tensors import NUMPY_NAMES, TensorSpec
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.description import PictureShape, picture_shape

# What a picture may unpack to where the configuration says nothing: a few kilobytes of PNG can claim gigapixels.
MAX_PICTURE_PIXELS = 25_000_000
_NPY_MAGIC = b"\x93NUMPY"
_JSON_TYPES = ("application/json", "text/json", "application/x-www-form-urlencoded")
# How long a number may be in JSON, its comma and brackets included.
_NUMBER_BYTES = 40
_DOCUMENT_BYTES = 64 * 1024
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"BM": "BMP", b"RIFF": "WEBP"}


def picture_format(data: bytes) -> str | None:
    """Which picture format the bytes claim to be ("JPEG", "PNG", "BMP", "WEBP"), or None."""
    for magic, name in _MAGIC.items():
        if data.startswith(magic) and (name != "WEBP" or data[8:12] == b"WEBP"):
            return name
    return None


def check_document_size(size: int, spec: TensorSpec, max_samples: int) -> None:
    """Refuse a JSON document that is larger than any that fits `spec`, before time goes into parsing it.

    Raises:
        CallerError: TOO_LARGE. An input with open dimensions other than its batch takes any size.
    """
    if any(n < 0 for n in spec.shape[1:]):
        return
    samples = max_samples if spec.shape[:1] == (-1,) else 1
    limit = _DOCUMENT_BYTES + _NUMBER_BYTES * samples * math.prod(abs(n) for n in spec.shape)
    if size > limit:
        raise CallerError(
            f"the document has {size} bytes, more than any that fits {spec.name!r} ({list(spec.shape)})", Code.TOO_LARGE
        )


def to_tensor(
    data: bytes | NDArray[Any],
    content_type: str,
    spec: TensorSpec,
    declaration: InputDeclaration | None,
    *,
    max_pixels: int = MAX_PICTURE_PIXELS,
) -> NDArray[Any]:
    """The input tensor of `spec` for a picture, a JSON document or an array of real values.

    Returns an array in the stored dtype with the full shape, batch dimension included (open dimensions are 1,
    or what the data has).

    Raises:
        CallerError: the data cannot be read, or does not fit the model.
    """
    if not isinstance(data, bytes):
        return _from_array(np.asarray(data), spec, declaration)
    kind = content_type.partition(";")[0].strip().lower()
    form = picture_format(data)
    if form is not None or kind.startswith("image/"):
        return _from_picture(data, form, spec, declaration, max_pixels)
    if data.startswith(_NPY_MAGIC):
        return _from_array(_npy_array(data), spec, declaration)
    if kind == "text/csv":
        return _from_array(_csv_array(data), spec, declaration)
    return _from_array(_json_array(data, kind), spec, declaration)


def _npy_array(data: bytes) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, MemoryError) as error:
        raise CallerError(f"the .npy file cannot be read: {str(error)[:120]}") from error
    if array.dtype.kind not in "iufb":
        raise CallerError(f"the .npy file must hold numbers, but holds {array.dtype}")
    return array


def _csv_array(data: bytes) -> NDArray[Any]:
    """Rows of numbers between commas, semicolons, tabs or spaces; rows may have any length."""
    words = re.split(rb"[,;\s]+", data.strip())
    try:
        return np.array([float(word) for word in words])
    except ValueError as error:
        raise CallerError(f"the CSV must hold numbers only (no header): {error}") from error


def _json_array(data: bytes, kind: str) -> NDArray[Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CallerError(
            f"the body ({kind or 'no content type'}, {len(data)} bytes) is neither a picture (JPEG, PNG, BMP, WebP), "
            f"nor an .npy file, nor CSV, nor JSON: {str(error)[:120]}",
            Code.UNSUPPORTED_MEDIA if kind and kind not in _JSON_TYPES else Code.INVALID_INPUT,
        ) from error
    if isinstance(document, dict):
        if set(document) - {"input"} or not document:
            raise CallerError('a JSON object must be {"input": [...]}; a bare array will do; for named tensors use /v2')
        document = document["input"]
    try:
        array = np.asarray(document)
    except ValueError as error:
        raise CallerError(f"the JSON array is ragged: {error}") from error
    if array.dtype.kind not in "iufb":
        raise CallerError("the JSON array must hold numbers only")
    return array


def _from_array(raw: NDArray[Any], spec: TensorSpec, declaration: InputDeclaration | None) -> NDArray[Any]:
    if spec.datatype == "BYTES":
        raise CallerError("this model takes strings: send them as BYTES through /v2")
    shape = _fill_shape(spec, raw.size)
    values = raw.astype(np.float64)
    if not np.isfinite(values).all():
        raise CallerError("the input has values that are not finite (NaN or infinity)")
    values = values.reshape(shape)
    if declaration is None:
        return quantize(values, spec)
    if declaration.kind == "image" and declaration.full_range:
        return _over_full_range(values, spec)
    return quantize(_normalize(values, declaration), spec)


def _fill_shape(spec: TensorSpec, size: int) -> tuple[int, ...]:
    """The input's shape with one open dimension filled by `size` values; raises CallerError if they do not fit."""
    fixed = math.prod(n for n in spec.shape if n > 0)
    shape = list(spec.shape)
    for axis in [i for i, n in enumerate(shape) if n < 0]:
        # The first open dimension (the batch, as a rule) takes what there is, the others are 1.
        shape[axis] = max(1, size // fixed) if fixed and size % fixed == 0 else 1
        fixed *= shape[axis]
    if math.prod(shape) != size:
        raise CallerError(
            f"the input has {size} values, but {spec.name!r} takes {math.prod(shape)} (shape {list(spec.shape)})"
        )
    return tuple(shape)


def _normalize(raw: NDArray[Any], declaration: InputDeclaration) -> NDArray[Any]:
    """(raw - mean) / std along the last axis, after inverting pixels if so declared."""
    if declaration.invert:
        raw = 255.0 - raw
    mean, std = np.asarray(declaration.mean), np.asarray(declaration.std)
    channels = raw.shape[-1] if raw.ndim else 1
    if not {mean.size, std.size} <= {1, channels}:
        raise CallerError(
            f"the model was declared with {mean.size} means and {std.size} stds, but its input has {channels} channels"
        )
    normalized: NDArray[Any] = (raw - mean) / std
    return normalized


def _over_full_range(pixels: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    dtype = np.dtype(NUMPY_NAMES[spec.datatype])
    limits = np.iinfo(dtype)
    stored: NDArray[Any] = np.clip(np.rint(pixels) + limits.min, limits.min, limits.max).astype(dtype)
    return stored


def _from_picture(
    data: bytes, form: str | None, spec: TensorSpec, declaration: InputDeclaration | None, max_pixels: int
) -> NDArray[Any]:
    shape = picture_shape(spec)
    if shape is None:
        raise CallerError(f"this model takes no pictures: its input {spec.name!r} has the shape {list(spec.shape)}")
    if declaration is None or (declaration.kind == "tensor" and not declaration.full_range and spec.datatype == "FP32"):
        raise CallerError(
            "the model does not say how pixels become its float input; "
            "push it again with --input image --mean M --std S"
        )
    pixels = read_picture(data, form, shape, declaration, max_pixels).astype(np.float64)
    if declaration.full_range:
        tensor = _over_full_range(255.0 - pixels if declaration.invert else pixels, spec)
    else:
        tensor = quantize(_normalize(pixels, declaration), spec)
    return tensor.reshape([1 if n < 0 else n for n in spec.shape])


def read_picture(
    data: bytes, form: str | None, shape: PictureShape, declaration: InputDeclaration, max_pixels: int
) -> NDArray[np.uint8]:
    """Decode a picture, turn it upright (EXIF), bring it to (height, width, channels) uint8 in the declared colours.

    Scaling is Pillow's bilinear filter, which widens with the reduction, as training pipelines use it.

    Raises:
        CallerError: the bytes are no picture, or one too large.
    """
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415 - only where pictures are used; no 32-bit ARM wheel
    except ImportError as error:
        raise CallerError(
            "this box cannot read pictures: Pillow is not installed (apt-get install python3-pil); send a JSON array",
            Code.UNSUPPORTED_MEDIA,
        ) from error
    try:
        with Image.open(io.BytesIO(data), formats=[form] if form else ["JPEG", "PNG", "BMP", "WEBP"]) as picture:
            if picture.width * picture.height > max_pixels:
                _too_large(picture.width, picture.height, max_pixels)
            upright = ImageOps.exif_transpose(picture).convert("L" if shape.channels == 1 else "RGB")
            size = (shape.width, shape.height)
            fitted = _resize(upright, size, crop=declaration.resize == "crop")
    except Image.DecompressionBombError as error:
        raise CallerError(f"the picture is too large: {error}", Code.TOO_LARGE) from error
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, OverflowError, ArithmeticError) as error:
        what = f"{form or 'unknown format'}, {len(data)} bytes"
        raise CallerError(f"the picture cannot be read ({what}): {error}") from error
    pixels = np.asarray(fitted, dtype=np.uint8).reshape(shape.height, shape.width, shape.channels)
    return pixels[:, :, ::-1] if declaration.color == "BGR" else pixels


def _resize(picture: Any, size: tuple[int, int], *, crop: bool) -> Any:
    from PIL import Image, ImageOps  # noqa: PLC0415 - see read_picture

    if picture.size == size:
        return picture
    if crop:
        return ImageOps.fit(picture, size, method=Image.Resampling.BILINEAR)
    return picture.resize(size, Image.Resampling.BILINEAR)


def _too_large(width: int, height: int, max_pixels: int) -> NoReturn:
    raise CallerError(f"the picture is {width} x {height}, more than {max_pixels} pixels", Code.TOO_LARGE)
