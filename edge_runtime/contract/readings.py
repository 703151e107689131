"""What a manifest can declare of sensor readings: windows, scale, features."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_runtime.contract.bounds import MAX_CHANNELS, MAX_SAMPLE_RATE, MAX_WINDOW_SAMPLES, require, values_of, within
from edge_runtime.contract.errors import ContractError

_MAX_FEATURES = 256
FEATURES = (
    *("mean", "std", "min", "max", "median", "rms", "energy", "peak_to_peak", "crest", "skewness", "kurtosis"),
    *("zero_crossings", "mean_crossings", "mean_abs_change", "dominant_hz", "spectral_centroid"),
)
_BAND = re.compile(r"band:(\d{1,6}(?:\.\d{1,6})?)-(\d{1,6}(?:\.\d{1,6})?)")
_IN_HZ = ("dominant_hz", "spectral_centroid")


@dataclass(frozen=True, slots=True)
class SeriesDeclaration:
    """What readings of sensors the model was trained on. Longer series are cut into windows.

    Attributes:
        window_samples: readings in a window; 0: as many as fill the input.
        hop_samples: readings from one window to the next; 0: a window, without overlap.
        channels: values in a reading; 0: as many as `columns`, or as the input's shape says.
        columns: names of the columns of a CSV with a header, in the model's order; empty: all of them.
        sample_rate: readings per second, in Hz; 0: not known.
        minimum, maximum: ends of each channel's range (one value: of all), which becomes 0..1; empty: not scaled.
        standardize: each channel of a window is brought to mean 0 ("center"), also to standard deviation 1
            ("standard"), or to 0..1 by its own ends ("minmax").
        features: what is computed of each channel of a window (see docs/manifest.md), in this order; empty: the
            model takes the readings.
        order: features of the first channel come first ("channel"), or the first feature of all channels ("feature").
    """

    window_samples: int = 0
    hop_samples: int = 0
    channels: int = 0
    columns: tuple[str, ...] = ()
    sample_rate: float = 0.0
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()
    standardize: Literal["none", "center", "standard", "minmax"] = "none"
    features: tuple[str, ...] = ()
    order: Literal["channel", "feature"] = "channel"

    def __post_init__(self) -> None:
        within("window_samples", self.window_samples, 0, MAX_WINDOW_SAMPLES)
        within("hop_samples", self.hop_samples, 0, MAX_WINDOW_SAMPLES)
        within("channels", self.channels, 0, MAX_CHANNELS)
        within("number of columns", len(self.columns), 0, MAX_CHANNELS)
        within("sample_rate", self.sample_rate, 0, MAX_SAMPLE_RATE)
        require(
            not self.columns or self.channels in (0, len(self.columns)),
            f"channels is {self.channels}, but there are {len(self.columns)} columns",
        )
        require(len(set(self.columns)) == len(self.columns), "columns has the same name twice")
        self._check_range()
        within("number of features", len(self.features), 0, _MAX_FEATURES)
        for feature in self.features:
            self._check_feature(feature)
        require(not self.features or self.window_samples >= 2, "features need window_samples of 2 or more")

    def _check_range(self) -> None:
        require(bool(self.minimum) == bool(self.maximum), "minimum and maximum must be given together")
        pairs = max(len(self.minimum), len(self.maximum))
        require(
            {len(self.minimum), len(self.maximum)} <= {0, 1, pairs},
            "minimum and maximum have different numbers of values",
        )
        low, high = (list(ends) * (pairs if len(ends) == 1 else 1) for ends in (self.minimum, self.maximum))
        require(all(a < b for a, b in zip(low, high, strict=True)), "maximum must be above minimum")

    def _check_feature(self, feature: str) -> None:
        edges = band(feature)
        require(
            feature in FEATURES or edges is not None,
            f"there is no feature {feature!r}; known: {', '.join(FEATURES)}, band:LOW-HIGH (Hz)",
        )
        require(
            (feature not in _IN_HZ and edges is None) or self.sample_rate > 0,
            f"feature {feature!r} is in Hz and needs sample_rate",
        )
        require(
            edges is None or edges[0] < edges[1], f"feature {feature!r}: the second frequency must be above the first"
        )

    def window(self, shape: Sequence[int]) -> tuple[int, int]:
        """Readings of a window, and channels, for an input of this shape (an open batch counts as 1).

        Raises:
            ContractError: a window does not fill the input.
        """
        channels = self.channels or len(self.columns) or self._channels_of([abs(n) for n in shape])
        size = values_of(shape, channels * (len(self.features) or self.window_samples))
        window = self.window_samples or size // channels
        found = channels * (len(self.features) or window)
        if found != size:
            what = f"{len(self.features)} features" if self.features else f"{window} readings"
            raise ContractError(
                f"series: {what} of {channels} channels give {found} values, but the input {list(shape)} takes {size}"
            )
        for key, ends in (("minimum", self.minimum), ("maximum", self.maximum)):
            require(len(ends) in (0, 1, channels), f"series: {key} has {len(ends)} values for {channels} channels")
        within("readings x channels of a window", window * channels, 1, MAX_WINDOW_SAMPLES)
        return window, channels

    def _channels_of(self, sizes: Sequence[int]) -> int:
        size = math.prod(sizes)
        if self.features:
            return max(1, size // len(self.features))
        if self.window_samples:
            return max(1, size // self.window_samples)
        beyond_one = [n for n in sizes[1:] if n != 1]
        return beyond_one[-1] if len(beyond_one) > 1 else 1


def band(feature: str) -> tuple[float, float] | None:
    """The ends in Hz of a feature "band:LOW-HIGH"; None for any other."""
    match = _BAND.fullmatch(feature)
    return (float(match[1]), float(match[2])) if match else None
