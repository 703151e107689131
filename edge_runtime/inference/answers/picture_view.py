"""Which part of a caller's picture the model saw, from the picture's header and the input's declaration."""

import io

from edge_runtime.contract.manifest import InputDeclaration
from edge_runtime.inference.answers.view import Frame, View, view_of

_ORIENTATION = 0x0112  # EXIF 2.32, table 4; from 5 on, width and height change places
_FIRST_ON_ITS_SIDE = 5


def picture_view(data: bytes, frame: Frame, declaration: InputDeclaration) -> View | None:
    """The view of a picture that has been read already; None where its size cannot be told."""
    from PIL import Image  # noqa: PLC0415 - only where pictures are used; no 32-bit ARM wheel

    if not (frame.width and frame.height):
        return None
    with Image.open(io.BytesIO(data)) as picture:
        size = picture.size
        if declaration.exif and picture.getexif().get(_ORIENTATION, 1) >= _FIRST_ON_ITS_SIDE:
            size = size[::-1]
    return view_of(size, (frame.width, frame.height), declaration.resize, declaration.crop_fraction)
