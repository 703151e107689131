"""Sample data: what is wrong with a file is told with the value, and no damage gets further than the reader."""

import contextlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits_example import MODEL, refused
from hypothesis import given
from hypothesis import strategies as st

from converters.engine import Model
from converters.errors import ConvertError
from converters.samples import load

GOOD = np.random.default_rng(0).random((20, 8, 8, 1), dtype=np.float32)
NAN, INFINITE = GOOD.copy(), GOOD.copy()
NAN[3, 0, 0, 0], INFINITE[5, 0, 0, 0] = np.nan, np.inf
DIGITS_MODEL = Model(MODEL.read_bytes())


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=GOOD[:2], y=np.arange(2))
    return buffer.getvalue()


NPZ = _npz()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"x": GOOD[:0]}, "no samples"),
        ({"x": NAN}, "first in sample 3"),
        ({"x": INFINITE}, "first in sample 5"),
        ({"x": np.full_like(GOOD, 0.5)}, "constant (0.5)"),
        ({"x": GOOD[:, :7]}, "(n, 8, 8, 1)"),
        ({"x": np.float32(1)}, "(n, 8, 8, 1)"),
        ({"picture": GOOD}, "the model's inputs are image (or x)"),
        ({"x": GOOD, "z": GOOD}, "has arrays image, z"),
        ({"x": GOOD.astype(str)}, "not numbers"),
        ({"x": GOOD, "y": np.zeros(3, np.int64)}, "labels y"),
        ({"x": GOOD, "y": np.full(20, 10)}, "the model has classes 0 to 9"),
        ({"x": GOOD[:1]}, "one sample is not enough"),
    ],
)
def test_sample_data_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, Any], says: str
) -> None:
    """Each fault of a data file is named with the value that is wrong."""
    np.savez(tmp_path / "data.npz", **content)
    assert says in refused(tmp_path, capsys, str(MODEL), "--calibrate", str(tmp_path / "data.npz"))


def test_a_data_file_that_is_no_npz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, a lone array and pickles are refused; nothing is ever unpickled."""
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "pickle.npz", x=np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "lone.npy", GOOD)
    (tmp_path / "empty.npz").touch()
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("x", "hello")
    for name, says in (
        ("text.npz", "not a readable .npz file: it begins with b'hello'; save one with numpy.savez"),
        ("empty.npz", "it is empty"),
        ("zip.npz", "its member 'x' is no array"),
        ("pickle.npz", "it holds Python objects"),
        ("lone.npy", "single array"),
    ):
        line = refused(tmp_path, capsys, str(MODEL), "--calibrate", str(tmp_path / name))
        assert says in line
        assert "unsafe" not in line
        assert "allow_pickle" not in line
    assert "no such file" in refused(tmp_path, capsys, str(MODEL), "--calibrate", str(tmp_path / "absent.npz"))


@given(st.data())
def test_a_damaged_npz_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever bytes of a data file are wrong, the one error is the converter's own."""
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    content = bytearray(NPZ)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ConvertError, MemoryError):
        load(path, DIGITS_MODEL)
