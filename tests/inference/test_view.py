"""A place in the model's picture is the same place in the caller's."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.contract.manifest import InputDeclaration
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference import preprocess
from edge_runtime.inference.answers.picture_view import picture_view
from edge_runtime.inference.answers.view import Frame, View, frame_of, view_of

SIZE = st.tuples(st.integers(1, 500), st.integers(1, 500))
SPEC = TensorSpec("x", "UINT8", (1, 60, 90, 3))


def marked(width: int, height: int, spot: tuple[int, int], orientation: int = 1) -> bytes:
    """A black PNG with a white square of 20 pixels around `spot` (x, y)."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x, y = spot
    pixels[y - 10 : y + 10, x - 10 : x + 10] = 255
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("resize", ["stretch", "crop", "fit", "none"])
@pytest.mark.parametrize("size", [(150, 75), (75, 150), (80, 55), (120, 80)])
def test_a_spot_is_found_where_the_caller_put_it(resize: str, size: tuple[int, int]) -> None:
    """Through the pre-processing that models get, and back."""
    declaration = InputDeclaration("image", resize=resize, full_range=True)  # type: ignore[arg-type]
    spot = (size[0] // 2 + 5, size[1] // 2 - 5)
    data = marked(*size, spot)
    seen = preprocess.to_tensor(data, "", SPEC, declaration)[0, :, :, 0]
    rows, columns = np.nonzero(seen > 127)
    middle = np.array([[(rows.mean() + 0.5) / 60, (columns.mean() + 0.5) / 90]])
    view = picture_view(data, frame_of(SPEC.shape, None), declaration)
    assert view is not None
    y, x = view.corners(middle)[0]
    assert (x * size[0], y * size[1]) == pytest.approx(spot, abs=3)


def test_a_picture_on_its_side() -> None:
    """EXIF says that it is to be turned: the view is of the upright picture."""
    declaration = InputDeclaration("image", resize="crop")
    upright = picture_view(marked(200, 400, (50, 50)), Frame(100, 100), declaration)
    turned = picture_view(marked(400, 200, (50, 50), orientation=6), Frame(100, 100), declaration)
    assert upright == turned == View(0.25, 0.0, 0.5, 1.0)
    assert picture_view(marked(200, 400, (50, 50)), Frame(), declaration) is None


@pytest.mark.parametrize(
    ("have", "want", "resize", "fraction", "expected"),
    [
        ((400, 200), (100, 100), "crop", 1.0, View(0.0, 0.25, 1.0, 0.5)),
        ((400, 200), (100, 100), "crop", 0.5, View(0.25, 0.375, 0.5, 0.25)),
        ((400, 200), (100, 100), "fit", 1.0, View(-0.5, 0.0, 2.0, 1.0)),
        ((400, 200), (100, 100), "none", 1.0, View(0.25, 0.375, 0.5, 0.25)),
        ((50, 200), (100, 100), "none", 1.0, View(0.25, -0.5, 0.5, 2.0)),
        ((400, 200), (100, 100), "stretch", 1.0, View()),
        ((400, 200), (100, 100), "stretch", 0.8, View(0.1, 0.1, 0.8, 0.8)),
    ],
)
def test_views(have: tuple[int, int], want: tuple[int, int], resize: str, fraction: float, expected: View) -> None:
    """A part of the picture, or more than it."""
    found = view_of(have, want, resize, fraction)
    for key in ("top", "left", "height", "width"):
        assert getattr(found, key) == pytest.approx(getattr(expected, key))


@given(SIZE, SIZE)
def test_a_crop_is_inside_and_a_fit_around(have: tuple[int, int], want: tuple[int, int]) -> None:
    """Whatever the sizes; and neither changes the aspect ratio by more than a pixel."""
    crop, fit = view_of(have, want, "crop"), view_of(have, want, "fit")
    for view, outer in ((crop, View()), (View(), fit)):
        assert view.top >= outer.top - 1e-9
        assert view.left >= outer.left - 1e-9
        assert view.top + view.height <= outer.top + outer.height + 1e-9
        assert view.left + view.width <= outer.left + outer.width + 1e-9
