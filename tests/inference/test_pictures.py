"""From pictures to pixels: sizes, colours, layouts, as the training had them."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import require_shared
from PIL import Image

from edge_runtime.contract.inputs import InputDeclaration, picture_shape
from edge_runtime.contract.quantization import dequantize
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference import engine as engines
from edge_runtime.inference import preprocess
from edge_runtime.inference.inputs import sampling

SQUARE = TensorSpec("image", "FP32", (1, 16, 16, 3))


def file_of(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def ramp(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, :, 0] = np.arange(width)
    pixels[:, :, 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


def tensor(picture: Image.Image, spec: TensorSpec = SQUARE, **declared: object) -> Any:
    """The one sample of the input tensor."""
    return preprocess.to_tensor(file_of(picture), "", spec, InputDeclaration("image", **declared))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "picture", "declared", "index", "score"),
    [
        ("mlperf_tiny/vww_96_float", "grace_hopper.bmp", InputDeclaration("image", std=(255.0,)), 1, 0.888),
        ("mlperf_tiny/vww_96_int8", "grace_hopper.bmp", InputDeclaration("image", full_range=True), 1, 0.895),
        ("mlperf_tiny/vww_96_int8", "cat.bmp", InputDeclaration("image", full_range=True), 1, 0.047),
        ("mlperf_tiny/ic_resnet8_float", "cat.bmp", InputDeclaration("image", resize="crop"), 3, 0.99),
        ("mlperf_tiny/ic_resnet8_int8", "cat.bmp", InputDeclaration("image", resize="crop", full_range=True), 3, 0.99),
    ],
)
def test_known_models_give_their_known_scores(
    model: str, picture: str, declared: InputDeclaration, index: int, score: float
) -> None:
    """The published answer for a photograph, with the sizes and colours of the training."""
    session = engines.choose().open(require_shared(f"models/{model}.tflite"), "builtin", 1)
    (spec,), (output,) = session.inputs, session.outputs
    data = require_shared(f"data/images/{picture}").read_bytes()
    given = preprocess.to_tensor(data, "", spec, declared)
    assert dequantize(session.run({spec.name: given})[output.name], output)[0, index] == pytest.approx(score, abs=0.012)


def test_without_antialias_pixels_are_those_of_tensorflow() -> None:
    """tf.image.resize of TensorFlow 2.21 on 4 x 4 pixels: bilinear exactly, bicubic but for the table of its kernel."""
    picture = Image.fromarray((np.arange(48).reshape(4, 4, 3) * 5).astype(np.uint8))
    known = {
        ("bilinear", (2, 3)): [[17.5, 47.5], [97.5, 127.5], [177.5, 207.5]],
        ("bilinear", (5, 1)): [[90.0, 100.5, 112.5, 124.5, 135.0]],
        ("bicubic", (2, 3)): [[12.361, 45.008], [96.176, 128.824], [179.992, 212.639]],
    }
    for (interpolation, size), expected in known.items():
        declared = InputDeclaration("image", interpolation=interpolation, antialias=False)  # type: ignore[arg-type]
        found = sampling.resized(picture, size, (0.0, 0.0, 4.0, 4.0), declared)
        np.testing.assert_allclose(found[:, :, 0], expected, atol=0.02)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_without_antialias_bilinear_agrees_with_pillows_affine(width: int, height: int, to: int, high: int) -> None:
    """A peer that samples at half pixel centres, too."""
    grey = Image.fromarray(np.random.default_rng(width * height).integers(0, 256, (height, width)).astype(np.uint8))
    wide = Image.fromarray(np.pad(np.asarray(grey), 1, mode="edge"))  # Pillow has nothing outside, here edges go on
    found = sampling.resized(
        grey, (to, high), (0.0, 0.0, float(width), float(height)), InputDeclaration("image", antialias=False)
    )
    scales = (width / to, 0, 1, 0, height / high, 1)
    expected = np.asarray(wide.transform((to, high), Image.Transform.AFFINE, scales, Image.Resampling.BILINEAR))
    np.testing.assert_allclose(found, expected.astype(float), atol=1.01)


def test_area_is_the_mean_of_what_a_pixel_covers() -> None:
    """As cv2.INTER_AREA."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    found = tensor(Image.fromarray(pixels), interpolation="area")
    expected = pixels.reshape(16, 2, 16, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found, expected, atol=1)


def test_crop_fraction() -> None:
    """The middle 87.5 %: of both sides when stretched, of the shorter one when cropped."""
    stretched = tensor(ramp(160, 80), crop_fraction=0.875, interpolation="area")
    np.testing.assert_allclose(stretched[0, [0, -1], 0], [10 + 8.75 / 2 - 0.5, 150 - 8.75 / 2 - 0.5], atol=1)
    np.testing.assert_allclose(stretched[[0, -1], 0, 1], [5 + 4.375 / 2 - 0.5, 75 - 4.375 / 2 - 0.5], atol=1)
    cropped = tensor(ramp(160, 80), resize="crop", crop_fraction=0.875, interpolation="area")
    np.testing.assert_allclose(cropped[0, [0, -1], 0], [45 + 4.375 / 2 - 0.5, 115 - 4.375 / 2 - 0.5], atol=1)


def test_crop_is_what_torchvision_does_in_two_steps() -> None:
    """Resize(shorter side = size / 0.875), CenterCrop(size): the same part of the picture in one step."""
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 160, 3)).astype(np.uint8)).resize(
        (1280, 720)
    )
    spec = TensorSpec("image", "FP32", (1, 56, 56, 3))
    found = tensor(photo, spec, resize="crop", crop_fraction=0.875)
    resized = photo.resize((round(1280 * 64 / 720), 64), Image.Resampling.BILINEAR)
    left, top = (resized.width - 56) // 2, 4
    expected = np.asarray(resized.crop((left, top, left + 56, top + 56)), dtype=float)
    # The second step starts at a whole pixel, ours where the middle is.
    assert np.abs(found - expected).mean() < 4


def test_fit_keeps_the_whole_picture_on_a_background() -> None:
    """Letterbox: 32 x 16 becomes 16 x 8 with four rows of the background above and below."""
    found = tensor(Image.new("RGB", (32, 16), (9, 9, 9)), resize="fit", background=(1, 2, 3))
    assert found[4:12].min() == found[4:12].max() == 9
    assert found[3, 0].tolist() == found[12, 5].tolist() == [1, 2, 3]
    grey = TensorSpec("image", "FP32", (1, 16, 16, 1))
    assert tensor(Image.new("RGB", (32, 16)), grey, resize="fit", background=(255, 255, 255))[0, 0, 0] == 255


def test_none_cuts_the_middle_out_or_puts_a_smaller_picture_there() -> None:
    """Pixels stay what they are."""
    found = tensor(ramp(20, 18), resize="none")
    assert found[0, 0].tolist() == [2, 1, 0]
    assert found[15, 15].tolist() == [17, 16, 0]
    small = tensor(ramp(4, 30), resize="none", background=(7,))
    assert small[0, 6].tolist() == [0, 7, 0]
    assert small[0, 5].tolist() == small[0, 10].tolist() == [7, 7, 7]


def test_grey_for_three_channels_and_order_of_colours() -> None:
    """GRAY is ITU-R BT.601 luma in every channel."""
    picture = Image.new("RGB", (16, 16), (255, 0, 100))
    assert tensor(picture, color="GRAY")[0, 0].tolist() == [88, 88, 88]
    assert tensor(picture, color="BGR", mean=(1.0, 2.0, 3.0))[0, 0].tolist() == [99, -2, 252]


def test_transparency() -> None:
    """The colour as it is stored, or over the background."""
    picture = Image.new("RGBA", (16, 16), (200, 100, 0, 0))
    assert tensor(picture)[0, 0].tolist() == [200, 100, 0]
    assert tensor(picture, alpha="blend", background=(255,))[0, 0].tolist() == [255, 255, 255]
    assert tensor(picture, alpha="blend", background=(1, 2, 3))[0, 0].tolist() == [1, 2, 3]
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([50, 60, 70])
    data = file_of(palette, transparency=0)
    declared = InputDeclaration("image", alpha="blend", background=(9,))
    assert preprocess.to_tensor(data, "", SQUARE, declared)[0, 0, 0].tolist() == [9, 9, 9]


def test_grey_of_16_bits_is_scaled_and_not_clipped() -> None:
    """Pillow's own conversion would make white of nearly everything."""
    deep = Image.fromarray(np.full((16, 16), 257 * 100, dtype=np.uint16))
    assert tensor(deep).min() == tensor(deep).max() == 100


def test_exif_may_be_ignored() -> None:
    """For a camera whose pictures the model was trained on as they lie."""
    half = Image.new("RGB", (16, 16))
    half.paste((255, 255, 255), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(half, exif=exif)
    upright = preprocess.to_tensor(data, "", SQUARE, InputDeclaration("image"))[0]
    lying = preprocess.to_tensor(data, "", SQUARE, InputDeclaration("image", exif=False))[0]
    np.testing.assert_array_equal(np.rot90(lying, -1), upright)


def test_channels_first() -> None:
    """PyTorch models take (1, 3, H, W): pictures, and arrays of pixels in that order."""
    spec = TensorSpec("image", "FP32", (1, 3, 16, 20))
    declared = InputDeclaration("image", mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0))
    found = preprocess.to_tensor(file_of(Image.new("RGB", (20, 16), (5, 6, 7))), "", spec, declared)
    assert found[0, :, 3, 4].tolist() == [4, 2, 1]
    pixels = np.broadcast_to(np.array([5, 6, 7])[:, None, None], (3, 16, 20))
    np.testing.assert_array_equal(preprocess.to_tensor(pixels, "", spec, declared), found)
    either = (1, 3, 5, 3)
    assert picture_shape(either) == picture_shape(either, "NHWC")
    assert picture_shape(either, "NCHW") == picture_shape((1, 3, 5, 3), layout="NCHW")
    with pytest.raises(CallerError, match="takes no pictures"):
        preprocess.to_tensor(file_of(ramp(4, 4)), "", spec, InputDeclaration("image", layout="NHWC"))


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from(["stretch", "crop", "fit", "none"]),
    st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "area"]),
    st.sampled_from([1.0, 0.875, 0.01]),
    st.booleans(),
)
def test_any_picture_fills_any_input(
    width: int, height: int, resize: str, interpolation: str, fraction: float, antialias: object
) -> None:
    """Whatever is declared, the tensor is full of values between 0 and 255."""
    if resize in ("fit", "none"):
        fraction = 1.0
    sharp = not antialias and interpolation in ("nearest", "bilinear", "bicubic")
    declared = InputDeclaration(
        "image", resize=resize, interpolation=interpolation, crop_fraction=fraction, antialias=not sharp
    )  # type: ignore[arg-type]
    spec = TensorSpec("image", "FP32", (1, 7, 11, 3))
    found = preprocess.to_tensor(file_of(ramp(width, height)), "", spec, declared)
    assert found.shape == (1, 7, 11, 3)
    assert found.min() >= 0
    assert found.max() <= 60.5


def test_a_picture_of_another_format_is_told_so() -> None:
    """415: nothing is wrong with it, but it is none of the four."""
    for data in (file_of(ramp(4, 4), "GIF"), file_of(ramp(4, 4), "TIFF"), b"<svg/>"):
        with pytest.raises(CallerError, match="taken as JPEG, PNG, BMP, WEBP") as caught:
            preprocess.to_tensor(data, "image/x", SQUARE, InputDeclaration("image"))
        assert caught.value.code is Code.UNSUPPORTED_MEDIA
