"""From a picture to pixels of the size and colours that a model takes."""

import io
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.inputs import InputDeclaration, PictureShape, picture_shape
from edge_runtime.contract.quantization import quantize
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.inputs.arrays import normalize, one_sample, over_full_range
from edge_runtime.inference.inputs.sampling import resized

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"BM": "BMP", b"RIFF": "WEBP"}
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # grey of 16 bits, which Pillow would clip to 8
_CLEAR_MODES = ("RGBA", "RGBa", "LA", "La", "PA")

Box = tuple[float, float, float, float]


def picture_format(data: bytes) -> str | None:
    """Which picture format the bytes claim to be ("JPEG", "PNG", "BMP", "WEBP"), or None."""
    for magic, name in _MAGIC.items():
        if data.startswith(magic) and (name != "WEBP" or data[8:12] == b"WEBP"):
            return name
    return None


def from_picture(
    data: bytes, form: str | None, spec: TensorSpec, declaration: InputDeclaration | None, max_pixels: int
) -> NDArray[Any]:
    """The input tensor of `spec` for a picture.

    Raises:
        CallerError: the model takes no pictures, or does not say how; the bytes are no picture, or one too large.
    """
    shape = picture_shape(spec.shape, declaration.layout if declaration else "NHWC")
    if shape is None or (declaration is not None and declaration.kind in ("audio", "series")):
        takes = f" but {declaration.kind}" if declaration and declaration.kind != "tensor" else ""
        raise CallerError(
            f"this model takes no pictures{takes}: its input {spec.name!r} has the shape {list(spec.shape)}",
            Code.UNSUPPORTED_MEDIA,
        )
    if declaration is None or (declaration.kind == "tensor" and not declaration.full_range and spec.datatype == "FP32"):
        raise CallerError(
            "the model does not say how pixels become its float input; "
            "push it again with --input image --mean M --std S"
        )
    pixels = read_picture(data, form, shape, declaration, max_pixels).astype(np.float64)
    if declaration.invert:
        pixels = 255.0 - pixels
    values = pixels if declaration.full_range else normalize(pixels, declaration)
    if shape.channels_first:
        values = values.transpose(2, 0, 1)
    return one_sample(over_full_range(values, spec) if declaration.full_range else quantize(values, spec), spec)


def read_picture(
    data: bytes, form: str | None, shape: PictureShape, declaration: InputDeclaration, max_pixels: int
) -> NDArray[Any]:
    """Decode a picture, turn it upright (EXIF), bring it to (height, width, channels) in the declared colours.

    Values are 0..255: uint8, or float where scaling without antialias leaves fractions.

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
        with Image.open(io.BytesIO(data), formats=[form] if form else list(FORMATS)) as picture:
            if picture.width * picture.height > max_pixels:
                _too_large(picture.width, picture.height, max_pixels)
            upright = ImageOps.exif_transpose(picture) if declaration.exif else picture
            colored = _colored(upright, declaration, grey=shape.channels == 1 or declaration.color == "GRAY")
            pixels = _fitted(colored, (shape.width, shape.height), declaration)
    except Image.DecompressionBombError as error:
        raise CallerError(f"the picture is too large: {error}", Code.TOO_LARGE) from error
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, OverflowError, ArithmeticError) as error:
        what = f"{form or 'unknown format'}, {len(data)} bytes"
        if form is None:
            known = ", ".join(FORMATS)
            raise CallerError(
                f"pictures are taken as {known}, but this is none ({what})", Code.UNSUPPORTED_MEDIA
            ) from error
        raise CallerError(f"the picture cannot be read ({what}): {error}") from error
    pixels = pixels.reshape(shape.height, shape.width, -1)
    if pixels.shape[2] != shape.channels:  # a grey picture for a model of three channels
        pixels = np.repeat(pixels, shape.channels, axis=2)
    return pixels[:, :, ::-1] if declaration.color == "BGR" else pixels


def _colored(picture: Any, declaration: InputDeclaration, *, grey: bool) -> Any:
    """The picture in RGB, or in grey as ITU-R BT.601 weighs the colours."""
    from PIL import Image  # noqa: PLC0415 - see read_picture

    if picture.mode in _DEEP_MODES:
        deep = np.asarray(picture).astype(np.float64)
        picture = Image.fromarray(np.clip(np.rint(deep / 257), 0, 255).astype(np.uint8))
    if declaration.alpha == "blend" and (picture.mode in _CLEAR_MODES or "transparency" in picture.info):
        above = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", above.size, (*_background(declaration), 255)), above)
    return picture.convert("L" if grey else "RGB")


def _background(declaration: InputDeclaration) -> tuple[int, ...]:
    return declaration.background if len(declaration.background) == 3 else declaration.background * 3


def _fitted(picture: Any, size: tuple[int, int], declaration: InputDeclaration) -> NDArray[Any]:
    """Pixels of a picture brought to `size` (width, height) as declared, (height, width) or (height, width, 3)."""
    match declaration.resize:
        case "stretch":
            return resized(picture, size, _middle(picture.size, picture.size, declaration.crop_fraction), declaration)
        case "crop":
            return resized(picture, size, _middle(picture.size, size, declaration.crop_fraction), declaration)
        case "fit":
            scale = min(size[0] / picture.width, size[1] / picture.height)
            inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            return _padded(resized(picture, inner, (0, 0, *picture.size), declaration), size, declaration)
        case _:
            left, top = (max(0, (have - want) // 2) for have, want in zip(picture.size, size, strict=True))
            right, bottom = min(picture.width, left + size[0]), min(picture.height, top + size[1])
            return _padded(np.asarray(picture.crop((left, top, right, bottom))), size, declaration)


def _middle(have: tuple[int, int], want: tuple[int, int], fraction: float) -> Box:
    """The largest part of a picture in the aspect ratio of `want`, around its middle, times `fraction`."""
    scale = min(have[0] / want[0], have[1] / want[1]) * fraction
    width, height = want[0] * scale, want[1] * scale
    left, top = (have[0] - width) / 2, (have[1] - height) / 2
    return max(0.0, left), max(0.0, top), min(float(have[0]), left + width), min(float(have[1]), top + height)


def _padded(pixels: NDArray[Any], size: tuple[int, int], declaration: InputDeclaration) -> NDArray[Any]:
    """Pixels in the middle of the background."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    color = np.array(_background(declaration), dtype=np.float64)
    if pixels.ndim == 2:
        color = np.rint(color @ [0.299, 0.587, 0.114])
    whole = np.empty((size[1], size[0], *pixels.shape[2:]), dtype=pixels.dtype)
    whole[:] = color.astype(pixels.dtype)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    whole[top : top + height, left : left + width] = pixels
    return whole


def _too_large(width: int, height: int, max_pixels: int) -> NoReturn:
    raise CallerError(f"the picture is {width} x {height}, more than {max_pixels} pixels", Code.TOO_LARGE)
