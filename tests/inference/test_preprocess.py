"""From pictures and numbers to tensors."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.contract.inputs import InputDeclaration, picture_shape
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference import preprocess
from edge_runtime.inference.description import undeclared_input

FLOAT = TensorSpec("image", "FP32", (1, 16, 16, 3))
BYTE = TensorSpec("image", "UINT8", (1, 16, 16, 3), 1 / 128, 128)
SIGNED = TensorSpec("image", "INT8", (-1, 16, 16, 3), 1 / 255, -128)
VECTOR = TensorSpec("x", "FP32", (1, 4))


def picture(
    form: str = "PNG", size: tuple[int, int] = (16, 16), mode: str = "RGB", color: object = (10, 20, 30)
) -> bytes:
    """A picture of one colour as a file."""
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, form)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP", "JPEG"])
def test_every_picture_format_is_known_by_its_bytes(form: str) -> None:
    """Whatever content type a caller claims, or none."""
    data = picture(form, color=(128, 128, 128))
    assert preprocess.picture_format(data) == form
    for kind in ("", "application/x-www-form-urlencoded", "image/png"):
        tensor = preprocess.to_tensor(data, kind, BYTE, InputDeclaration("image", full_range=True))
        assert tensor.shape == (1, 16, 16, 3)
        assert np.abs(tensor.astype(int) - 128).max() <= 2


def test_declared_normalization_is_applied() -> None:
    """(pixel - mean) / std, for each channel."""
    declared = InputDeclaration("image", mean=(10.0, 20.0, 0.0), std=(1.0, 2.0, 10.0))
    tensor = preprocess.to_tensor(picture(), "", FLOAT, declared)
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor[0, 0, 0], [0.0, 0.0, 3.0])


def test_full_range_puts_pixels_on_the_whole_of_an_8_bit_input() -> None:
    """Pixel 0 is the smallest stored value, 255 the largest, whatever the scale says."""
    declared = InputDeclaration("image", full_range=True)
    assert preprocess.to_tensor(picture(color=(0, 128, 255)), "", SIGNED, declared)[0, 0, 0].tolist() == [-128, 0, 127]
    assert preprocess.to_tensor(picture(color=(0, 128, 255)), "", BYTE, declared)[0, 0, 0].tolist() == [0, 128, 255]


def test_color_order_and_inversion() -> None:
    """BGR models get blue first; an inverted picture is 255 - pixel."""
    declared = InputDeclaration("image", color="BGR", invert=True)
    assert preprocess.to_tensor(picture(), "", FLOAT, declared)[0, 0, 0].tolist() == [225.0, 235.0, 245.0]


def test_crop_keeps_the_aspect_ratio_and_stretch_does_not() -> None:
    """A wide picture with a red left quarter: stretching shows it, cropping the middle out does not."""
    wide = Image.new("RGB", (64, 16), (0, 0, 0))
    wide.paste((255, 0, 0), (0, 0, 16, 16))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    stretched = preprocess.to_tensor(buffer.getvalue(), "", FLOAT, InputDeclaration("image"))
    cropped = preprocess.to_tensor(buffer.getvalue(), "", FLOAT, InputDeclaration("image", resize="crop"))
    assert stretched[0, 8, 0, 0] == 255.0
    assert cropped.max() == 0.0


def test_exif_rotation_is_undone() -> None:
    """A phone held upright stores a sideways picture and says so."""
    sideways = Image.new("RGB", (16, 16), (0, 0, 0))
    sideways.paste((255, 255, 255), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to show it
    buffer = io.BytesIO()
    sideways.save(buffer, "PNG", exif=exif)
    tensor = preprocess.to_tensor(buffer.getvalue(), "", FLOAT, InputDeclaration("image"))
    assert tensor[0, 8, 12, 0] == 255.0
    assert tensor[0, 8, 3, 0] == 0.0


def test_a_grey_input_takes_colour_pictures() -> None:
    """One channel, and three dimensions do for it, too."""
    spec = TensorSpec("x", "INT8", (1, 28, 28), 1 / 255, -128)
    tensor = preprocess.to_tensor(picture(color=(255, 255, 255)), "", spec, undeclared_input(spec))
    assert tensor.shape == (1, 28, 28)
    assert (tensor == 127).all()


def test_a_float_input_without_declaration_refuses_pictures_and_says_what_to_do() -> None:
    """0..1, -1..1 and 0..255 all look alike: a guess would be wrong without a word."""
    with pytest.raises(CallerError, match="--mean M --std S"):
        preprocess.to_tensor(picture(), "", FLOAT, undeclared_input(FLOAT))


@pytest.mark.parametrize("body", [b"[1, 2, 3, 4]", b'{"input": [[1, 2, 3, 4]]}', b"[[1],[2],[3],[4]]"])
def test_json_arrays_of_any_nesting_fill_the_input(body: bytes) -> None:
    """A bare array will do."""
    assert preprocess.to_tensor(body, "application/json", VECTOR, None).tolist() == [[1.0, 2.0, 3.0, 4.0]]


@pytest.mark.parametrize("text", [b"1,2,3,4", b"1;2\r\n3;4\r\n", b"1 2\n3 4\n", b"1\t2\t3\t4"])
def test_csv_takes_the_usual_separators(text: bytes) -> None:
    """As sensors and spreadsheets write it."""
    assert preprocess.to_tensor(text, "text/csv; charset=utf-8", VECTOR, None).tolist() == [[1.0, 2.0, 3.0, 4.0]]


def test_npy_files_of_numbers_are_taken_and_pickles_are_not() -> None:
    """A pickle runs code when it is opened."""
    buffer = io.BytesIO()
    np.save(buffer, np.int16([[1, 2], [3, 4]]))
    assert preprocess.to_tensor(buffer.getvalue(), "", VECTOR, None).tolist() == [[1.0, 2.0, 3.0, 4.0]]
    for bad in (np.array([{}], dtype=object), np.array(["a"])):
        buffer = io.BytesIO()
        np.save(buffer, bad)
        with pytest.raises(CallerError, match=r"\.npy file"):
            preprocess.to_tensor(buffer.getvalue(), "", VECTOR, None)
    with pytest.raises(CallerError, match=r"\.npy file"):
        preprocess.to_tensor(b"\x93NUMPY broken", "", VECTOR, None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body is empty; send a picture"),
        (b"GIF89a\xff\xfe", "nor JSON$"),
        (b"hello", "neither a picture"),
        (b"[1, 2, 3]", "3 values"),
        (b'["a", "b", "c", "d"]', "numbers only"),
        (b"[[1, 2], [3]]", "ragged|numbers only"),
        (b"[1, 2, 3, NaN]", "not finite"),
        (b'{"data": [1]}', "JSON object must be"),
        (b"{}", "JSON object must be"),
        (b"[" * 60_000, "neither a picture"),
        (b"\x89PNG\r\n\x1a\n broken", "takes no pictures"),
        (b"null", "numbers only"),
    ],
)
def test_bad_input_is_refused_with_a_reason(body: bytes, message: str) -> None:
    """Never another exception."""
    with pytest.raises(CallerError, match=message):
        preprocess.to_tensor(body, "", VECTOR, None)


def test_a_broken_picture_is_refused() -> None:
    """Truncated after its header."""
    with pytest.raises(CallerError, match="cannot be read"):
        preprocess.to_tensor(picture()[:60], "", FLOAT, InputDeclaration("image"))


def test_a_picture_that_claims_gigapixels_is_refused_before_it_is_unpacked() -> None:
    """A PNG header is enough to claim 60000 x 60000."""
    bomb = bytearray(picture())
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(CallerError) as caught:
        preprocess.to_tensor(bytes(bomb), "", FLOAT, InputDeclaration("image"))
    assert caught.value.code in (Code.TOO_LARGE, Code.INVALID_INPUT)


def test_an_open_batch_takes_what_comes() -> None:
    """Two samples for (-1, 4) are a batch of two."""
    spec = TensorSpec("x", "FP32", (-1, 4))
    assert preprocess.to_tensor(json.dumps([[0] * 4] * 2).encode(), "", spec, None).shape == (2, 4)


def test_what_fits_which_picture() -> None:
    """Speech features (1, 49, 10, 1) and accelerometer windows (1, 128, 3, 1) are no pictures to guess at."""
    assert undeclared_input(TensorSpec("x", "INT8", (1, 49, 10, 1), 1.0)) is None
    assert undeclared_input(TensorSpec("x", "INT8", (1, 128, 3, 1), 1.0)) is None
    assert picture_shape((1, 1960)) is None
    assert undeclared_input(BYTE) == InputDeclaration("image", full_range=True)


@given(st.binary(max_size=200), st.sampled_from(["", "image/jpeg", "application/json", "text/plain"]))
def test_no_bytes_do_anything_but_work_or_be_refused(data: bytes, kind: str) -> None:
    """Whatever is sent, the only exception is CallerError."""
    for spec in (VECTOR, BYTE):
        try:
            preprocess.to_tensor(data, kind, spec, undeclared_input(spec))
        except CallerError:
            continue
