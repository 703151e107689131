"""Pixels of one size from pixels of another."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.inputs import InputDeclaration

Floats = NDArray[np.float64]
_FILTERS = {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC", "lanczos": "LANCZOS", "area": "BOX"}


def resized(
    picture: Any, size: tuple[int, int], box: tuple[float, float, float, float], declaration: InputDeclaration
) -> NDArray[Any]:
    """The part `box` (left, top, right, bottom) of a Pillow picture, scaled to `size` (width, height).

    With antialias, Pillow's filters (uint8), which widen with the reduction; without, the nearest pixels only, at half
    pixel centres (float64), as tf.image.resize and OpenCV have it. Array (height, width) or (height, width, 3).
    """
    if picture.size == size and box == (0.0, 0.0, float(size[0]), float(size[1])):
        return np.asarray(picture)
    if declaration.antialias or declaration.interpolation == "nearest":
        from PIL import Image  # noqa: PLC0415 - see read_picture

        method = Image.Resampling[_FILTERS[declaration.interpolation]]
        return np.asarray(picture.resize(size, method, box=box))
    left, top, right, bottom = box
    pixels = np.asarray(picture)
    kernel, taps = _KERNELS[declaration.interpolation]
    pixels = _along_first(pixels, size[1], top, bottom, kernel, taps)
    across = _along_first(pixels.swapaxes(0, 1), size[0], left, right, kernel, taps)
    return np.clip(across.swapaxes(0, 1), 0, 255)


def _along_first(
    pixels: NDArray[Any], count: int, start: float, end: float, kernel: Callable[[Floats], Floats], taps: int
) -> Floats:
    """`count` pixels along the first axis between two edges, from its `taps` nearest; outside there are none."""
    centers = start + (np.arange(count) + 0.5) * (end - start) / count - 0.5
    first = np.floor(centers).astype(np.int64) - taps // 2 + 1
    taken = first[:, None] + np.arange(taps)
    weights = np.where((taken >= 0) & (taken < len(pixels)), kernel(np.abs(centers[:, None] - taken)), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    made = np.zeros((count, *pixels.shape[1:]))
    for tap in range(taps):
        rows = pixels[np.clip(taken[:, tap], 0, len(pixels) - 1)]
        made += rows * weights[:, tap].reshape(-1, *[1] * (pixels.ndim - 1))
    return made


def _triangle(distance: Floats) -> Floats:
    return np.asarray(1 - distance)


def _cubic(distance: Floats) -> Floats:
    """Keys' kernel with a = -0.5 (R. Keys, "Cubic Convolution Interpolation", 1981), as in TensorFlow and Pillow."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, far)


_KERNELS: dict[str, tuple[Callable[[Floats], Floats], int]] = {"bilinear": (_triangle, 2), "bicubic": (_cubic, 4)}
