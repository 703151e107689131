"""How what a person or a sensor has becomes a model's first input tensor: what a manifest can declare of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from edge_runtime.contract.bounds import require
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.readings import SeriesDeclaration
from edge_runtime.contract.sound import AudioDeclaration, FeatureDeclaration

__all__ = [
    "AudioDeclaration",
    "FeatureDeclaration",
    "InputDeclaration",
    "InputKind",
    "PictureShape",
    "SeriesDeclaration",
]

InputKind = Literal["image", "audio", "series", "tensor"]


@dataclass(frozen=True, slots=True)
class InputDeclaration:
    """How a person's input becomes the model's first input tensor.

    Attributes:
        kind: "image" takes pictures (and arrays of pixels 0..255); "audio" sound; "series" readings of sensors;
            "tensor" takes arrays only.
        resize: how a picture is brought to the input's height and width; "stretch" ignores its aspect ratio,
            "crop" keeps it and cuts the middle out, "fit" keeps it and fills up with `background`, "none" cuts the
            middle out without scaling.
        color: channel order that the model was trained on; "GRAY" turns pictures grey, whatever the channels.
        mean: subtracted for each channel (one value: for all), in the raw input's unit.
        std: what the rest is divided by, likewise. real = (raw - mean) / std.
        invert: pixels are 255 - pixel first (a model trained on white on black, fed with black on white).
        full_range: pixels 0..255 map onto the whole range of an 8-bit input, whatever its scale says; likewise the
            features of type "micro".
        interpolation: how pixels are made of pixels.
        antialias: when a picture gets smaller, every pixel counts (Pillow, torchvision); without, only the nearest
            ones do (tf.image.resize, OpenCV). "area" always counts all.
        crop_fraction: the middle part of a picture that is used by "stretch" (of both sides) and "crop" (of the shorter
            one); 0.875 is usual for ImageNet.
        background: colour around a fitted picture and behind transparent pixels, 0..255, one value or three (RGB).
        alpha: transparent pixels show their colour ("drop", as Pillow's convert) or the background ("blend").
        exif: pictures are turned upright as their EXIF data say.
        layout: "NCHW" inputs have their channels before height and width; "auto": as the shape says.
        audio: for kind "audio".
        series: for kind "series".
    """

    kind: InputKind = "tensor"
    resize: Literal["stretch", "crop", "fit", "none"] = "stretch"
    color: Literal["RGB", "BGR", "GRAY"] = "RGB"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    invert: bool = False
    full_range: bool = False
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "area"] = "bilinear"
    antialias: bool = True
    crop_fraction: float = 1.0
    background: tuple[int, ...] = (0,)
    alpha: Literal["drop", "blend"] = "drop"
    exif: bool = True
    layout: Literal["auto", "NHWC", "NCHW"] = "auto"
    audio: AudioDeclaration | None = None
    series: SeriesDeclaration | None = None

    def __post_init__(self) -> None:
        if not all(self.std):
            raise ContractError("std must not be 0: the input is divided by it")
        require(0.01 <= self.crop_fraction <= 1, f"crop_fraction must be 0.01 to 1, but is {self.crop_fraction:g}")
        require(
            self.crop_fraction == 1 or self.resize in ("stretch", "crop"),
            f'crop_fraction has no meaning with resize "{self.resize}"',
        )
        require(
            self.antialias or self.interpolation in ("nearest", "bilinear", "bicubic"),
            f'interpolation "{self.interpolation}" is only known with antialias',
        )
        require(
            len(self.background) in (1, 3) and all(0 <= value <= 255 for value in self.background),
            f"background must be one or three values 0..255, but is {list(self.background)}",
        )
        micro = self.audio is not None and self.audio.features is not None and self.audio.features.type == "micro"
        require(
            not self.full_range or self.kind in ("image", "tensor") or micro,
            f'full_range has no meaning with kind "{self.kind}" (but for features of type "micro")',
        )
        for kind, table in (("audio", self.audio), ("series", self.series)):
            require(table is None or self.kind == kind, f'{kind} is given, but kind is "{self.kind}"')

    @property
    def sound(self) -> AudioDeclaration:
        """What is declared of sound, or the defaults."""
        return self.audio or AudioDeclaration()

    @property
    def readings(self) -> SeriesDeclaration:
        """What is declared of readings, or the defaults."""
        return self.series or SeriesDeclaration()


@dataclass(frozen=True, slots=True)
class PictureShape:
    """Height, width and channels of a picture that an input takes, and whether the channels come first."""

    height: int
    width: int
    channels: int
    channels_first: bool = False


@lru_cache(maxsize=256)
def picture_shape(shape: tuple[int, ...], layout: str = "auto") -> PictureShape | None:
    """What picture fits an input: (1, H, W, C) or (1, C, H, W) with C 1 or 3, or (1, H, W) for grey; None if none does.

    A shape that can be read both ways has its channels last, unless the layout says otherwise.
    """
    sizes = (*shape, 1) if len(shape) == 3 else shape
    if len(sizes) != 4 or sizes[0] not in (1, -1) or min(sizes[1:]) < 1:
        return None
    if layout != "NCHW" and sizes[3] in (1, 3):
        return PictureShape(*sizes[1:])
    if layout != "NHWC" and sizes[1] in (1, 3):
        return PictureShape(sizes[2], sizes[3], sizes[1], channels_first=True)
    return None


def check_fits(declaration: InputDeclaration, shape: Sequence[int]) -> None:
    """Raise ContractError unless what is declared fills an input of this shape, batch dimension included."""
    channels = shape[-1] if len(shape) > 1 else 1
    match declaration.kind:
        case "image":
            picture = picture_shape(tuple(shape), declaration.layout)
            if picture is None:
                raise ContractError(
                    f"the input is an image, but the model takes {tuple(shape)}, and pictures are (1, height, width,"
                    " 1 or 3), (1, 1 or 3, height, width), or (1, height, width) for grey"
                )
            channels = picture.channels
        case "audio":
            sound = declaration.sound
            sound.window(shape)
            channels = sound.features.bins if sound.features else sound.channels
        case "series":
            readings = declaration.readings
            _, channels = readings.window(shape)
            channels *= max(1, len(readings.features))
        case _:
            pass
    for key, values in (("mean", declaration.mean), ("std", declaration.std)):
        if channels > 0 and len(values) not in (1, channels):
            raise ContractError(
                f"{key} has {len(values)} values, but the input has {channels} channels: give 1 or {channels}"
            )
