"""Sample data from .npz files: arrays named by input (or `x`), first axis samples, real values in the input's unit."""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.engine import Model, Tensors, first_line
from converters.errors import ConvertError

HELD_OUT_EVERY = 5
_ZIP, _NPY = (b"PK\x03\x04", b"PK\x05\x06"), b"\x93NUMPY"
_HOW = "save one with numpy.savez(FILE, x=samples)"


@dataclass(frozen=True)
class Samples:
    """Samples for a model.

    Attributes:
        inputs: by input name, (n, *shape of the input with its batch of 1), real values.
        labels: int64 (n,), the true classes, if the file has them.
        sha256: hex digest of the file.
    """

    inputs: Tensors
    labels: NDArray[np.int64] | None
    sha256: str

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self) -> list[Tensors]:
        """One dict of inputs for each sample."""
        return [{name: values[i] for name, values in self.inputs.items()} for i in range(len(self))]

    def take(self, mask: NDArray[np.bool_]) -> "Samples":
        """The samples where `mask`, bool (n,), is true."""
        labels = None if self.labels is None else self.labels[mask]
        return Samples({name: values[mask] for name, values in self.inputs.items()}, labels, self.sha256)


def load(path: Path, model: Model) -> Samples:
    """Read and check samples for `model`.

    Raises:
        ConvertError: unreadable, names or shapes that do not fit, no samples, NaN or infinite or constant values.
    """
    arrays = _read(path)
    names = [spec.name for spec in model.inputs]
    labels = arrays.pop("y", None) if "y" not in names else None
    if len(names) == 1 and "x" in arrays and names[0] not in arrays:
        arrays[names[0]] = arrays.pop("x")
    if set(arrays) != set(names):
        wanted = ", ".join(names) + (" (or x)" if len(names) == 1 else "")
        raise ConvertError(
            f"{path}: has arrays {', '.join(sorted(arrays)) or 'none'}, but the model's inputs are {wanted}"
        )
    inputs = {name: _check(path, name, arrays[name], shape) for name, shape in model.input_shapes.items()}
    counts = {len(values) for values in inputs.values()}
    if len(counts) > 1:
        raise ConvertError(f"{path}: its arrays have different numbers of samples: {sorted(counts)}")
    return Samples(inputs, _labels(path, labels, counts.pop()), hashlib.sha256(path.read_bytes()).hexdigest())


def split(samples: Samples, path: Path) -> tuple[Samples, Samples]:
    """Calibration and evaluation parts of one file: every fifth sample (at least one) is held out."""
    count = len(samples)
    if count < 2:
        raise ConvertError(
            f"{path}: one sample is not enough to calibrate and to evaluate: give --evaluate or more samples"
        )
    held_out = np.arange(count) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    held_out[-1] |= not held_out.any()
    return samples.take(~held_out), samples.take(held_out)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            _check_mark(path, file.read(16))
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: _plain(path, name, archive[name]) for name in archive.files}
    except FileNotFoundError as error:
        raise ConvertError(f"{path}: there is no such file") from error
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # numpy's own words advise to unpickle what it cannot read; that is never done here.
        why = "it holds Python objects" if "pickle" in str(error) else first_line(error)
        raise ConvertError(f"{path}: not a readable .npz file of plain arrays: {why}") from error


def _check_mark(path: Path, head: bytes) -> None:
    """Raise ConvertError unless a file that begins like this is a ZIP archive, as an .npz is."""
    if head.startswith(_NPY):
        raise ConvertError(f"{path}: a single array; save it with numpy.savez(FILE, x=...)")
    if not head.startswith(_ZIP):
        begin = f"it begins with {head!r}" if head else "it is empty"
        raise ConvertError(f"{path}: not a readable .npz file: {begin}; {_HOW}")


def _plain(path: Path, name: str, values: Any) -> NDArray[Any]:
    if not isinstance(values, np.ndarray):  # numpy gives the bytes of a member that is no .npy
        raise ConvertError(f"{path}: a ZIP archive, but its member {name!r} is no array; {_HOW}")
    return values


def _check(path: Path, name: str, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if values.dtype.kind not in "fiub":
        raise ConvertError(f"{path}: array {name!r} holds {values.dtype}, not numbers")
    rest = shape[1:] if shape[:1] == (1,) else shape
    if values.ndim == 0 or values.shape[1:] not in (shape, rest):
        wanted = "(n, " + ", ".join(str(n) for n in rest) + ")"
        raise ConvertError(f"{path}: array {name!r} has shape {values.shape}, but the model takes {wanted}")
    if len(values) == 0:
        raise ConvertError(f"{path}: array {name!r} has no samples")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
        raise ConvertError(f"{path}: array {name!r} has NaN or infinite values, first in sample {bad}")
    if values.min() == values.max():
        raise ConvertError(f"{path}: array {name!r} is constant ({values.flat[0]}): ranges cannot be learned from it")
    return values.reshape(len(values), *shape).astype(np.float32 if values.dtype.kind == "f" else values.dtype)


def _labels(path: Path, labels: NDArray[Any] | None, count: int) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ConvertError(
            f"{path}: labels y are {labels.dtype} {labels.shape}, but must be whole numbers of shape ({count},)"
        )
    return labels.astype(np.int64)
