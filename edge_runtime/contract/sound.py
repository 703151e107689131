"""What a manifest can declare of sound: rate, windows, features.

Every number is bounded here, so that no manifest can make a box work or fill its memory without end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_runtime.contract.bounds import (
    MAX_CHANNELS,
    MAX_SAMPLE_RATE,
    MAX_WINDOW_SAMPLES,
    MIN_SAMPLE_RATE,
    require,
    values_of,
    within,
)
from edge_runtime.contract.errors import ContractError

_MAX_FRAME_SAMPLES = 65_536
_MAX_FFT_WORK = 8_000_000  # frames x FFT points of one window
_MAX_BINS = 1024
# The constants of TensorFlow Lite Micro's speech front end: 30 ms every 20 ms at 16 kHz, 40 channels.
MICRO_RATE, MICRO_FRAME, MICRO_HOP, MICRO_CHANNELS = 16_000, 480, 320, 40


@dataclass(frozen=True, slots=True)
class FeatureDeclaration:
    """Which features of sound the model was trained on. Frequencies are in Hz, lengths in samples.

    Attributes:
        type: "spectrogram", "log_mel", "mfcc", or "micro": the fixed-point front end of TensorFlow Lite Micro's speech
            models, whose constants are all fixed.
        frame_samples: length of a frame; `hop_samples`: from one frame to the next.
        fft_samples: points of the FFT, a frame is filled up with zeros; 0: the next power of two.
        window: what a frame is multiplied with; periodic, or `symmetric` (as numpy.hanning).
        center: "none", or frames are centred on their time: the recording is continued at both ends by half an FFT,
            with zeros ("zero") or its mirror image ("reflect").
        power: 1 for the magnitude of the spectrum, 2 for its square.
        mel_bins, low_hz, high_hz: the mel filters; high_hz 0: half the sample rate.
        mel_scale: "htk" (2595 log10(1 + f / 700)) or "slaney" (linear below 1 kHz).
        mel_norm: "slaney" makes filters of equal area; mel_triangles: straight in "hz" or in "mel" (TensorFlow).
        log: "none", "natural", "log10" or "db" (10 log10 of power, 20 log10 of magnitude).
        log_offset: added before the logarithm; log_floor: smaller values count as this one.
        top_db: with "db", values this far below the window's largest are raised to it; 0: not.
        coefficients: how many of the MFCC are kept, from the first.
        dct: scale of the MFCC: "ortho" (scipy, librosa) or "htk" (TensorFlow).
        axes: order of the tensor: "time_first" or "bins_first" (librosa).
    """

    type: Literal["spectrogram", "log_mel", "mfcc", "micro"]
    frame_samples: int = 400
    hop_samples: int = 160
    fft_samples: int = 0
    window: Literal["hann", "hamming", "rectangular"] = "hann"
    symmetric: bool = False
    center: Literal["none", "zero", "reflect"] = "none"
    power: float = 2.0
    mel_bins: int = 40
    low_hz: float = 0.0
    high_hz: float = 0.0
    mel_scale: Literal["htk", "slaney"] = "htk"
    mel_norm: Literal["none", "slaney"] = "none"
    mel_triangles: Literal["hz", "mel"] = "hz"
    log: Literal["none", "natural", "log10", "db"] = "natural"
    log_offset: float = 0.0
    log_floor: float = 1e-10
    top_db: float = 0.0
    coefficients: int = 13
    dct: Literal["ortho", "htk"] = "ortho"
    axes: Literal["time_first", "bins_first"] = "time_first"

    def __post_init__(self) -> None:
        within("frame_samples", self.frame_samples, 2, _MAX_FRAME_SAMPLES)
        within("hop_samples", self.hop_samples, 1, _MAX_FRAME_SAMPLES)
        within("fft_samples", self.fft_samples, 0, _MAX_FRAME_SAMPLES)
        require(self.fft_samples == 0 or self.fft_samples >= self.frame_samples, "fft_samples is less than a frame")
        require(self.power in (1.0, 2.0), f"power must be 1 or 2, but is {self.power:g}")
        within("mel_bins", self.mel_bins, 1, _MAX_BINS)
        within("coefficients", self.coefficients, 1, self.mel_bins if self.type == "mfcc" else _MAX_BINS)
        within("low_hz", self.low_hz, 0, MAX_SAMPLE_RATE)
        require(
            self.high_hz == 0 or self.low_hz < self.high_hz <= MAX_SAMPLE_RATE,
            f"high_hz must be above low_hz, but they are {self.high_hz:g} and {self.low_hz:g}",
        )
        require(self.log_offset >= 0, f"log_offset must not be negative, but is {self.log_offset:g}")
        require(self.log_floor >= 0, f"log_floor must not be negative, but is {self.log_floor:g}")
        logs = self.type != "micro" and self.log != "none"
        require(not logs or self.log_offset + self.log_floor > 0, "log_offset and log_floor are 0: silence has no log")
        within("top_db", self.top_db, 0, 1000)

    @property
    def frame(self) -> int:
        """Samples of a frame as it is cut out."""
        return MICRO_FRAME if self.type == "micro" else self.frame_samples if self.center == "none" else self.fft

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return MICRO_HOP if self.type == "micro" else self.hop_samples

    @property
    def fft(self) -> int:
        """Points of the FFT."""
        return self.fft_samples or 1 << (self.frame_samples - 1).bit_length()

    @property
    def bins(self) -> int:
        """Values of a frame's features."""
        sizes = {"spectrogram": self.fft // 2 + 1, "log_mel": self.mel_bins, "mfcc": self.coefficients}
        return sizes.get(self.type, MICRO_CHANNELS)

    def frames(self, samples: int) -> int:
        """How many frames a window of so many samples has."""
        padded = samples + (0 if self.center == "none" or self.type == "micro" else 2 * (self.fft // 2))
        return max(0, 1 + (padded - self.frame) // self.hop)

    def samples(self, frames: int) -> int:
        """The shortest window that has so many frames."""
        padding = 0 if self.center == "none" or self.type == "micro" else 2 * (self.fft // 2)
        return max(1, self.frame + (frames - 1) * self.hop - padding)


@dataclass(frozen=True, slots=True)
class AudioDeclaration:
    """What sound the model was trained on. A recording is resampled and mixed to it, then cut into windows.

    Attributes:
        sample_rate: in Hz.
        channels: 1 mixes a recording to mono; otherwise it must have as many, or be mono.
        window_samples: what the model hears at once; 0: as many samples as fill its input.
        hop_samples: from one window to the next in a longer recording; 0: a window, without overlap.
        longer: a recording longer than a window gives one answer per hop ("slide") or is "cut" to one window.
        align: where a shorter recording lies in its window, filled up with silence, and which part of a longer one
            is kept by "cut".
        unit: samples are -1..1 ("unit") or -32768..32767 ("int16").
        normalize: the window's largest sample is made 1, or 32767 ("peak"), or its root mean square 1 ("rms").
        preemphasis: this share of the sample before is subtracted from each; 0: not.
        features: what is made of a window; None: the model takes the samples.
    """

    sample_rate: int = 16_000
    channels: int = 1
    window_samples: int = 0
    hop_samples: int = 0
    longer: Literal["slide", "cut"] = "slide"
    align: Literal["start", "center", "end"] = "start"
    unit: Literal["unit", "int16"] = "unit"
    normalize: Literal["none", "peak", "rms"] = "none"
    preemphasis: float = 0.0
    features: FeatureDeclaration | None = None

    def __post_init__(self) -> None:
        within("sample_rate", self.sample_rate, MIN_SAMPLE_RATE, MAX_SAMPLE_RATE)
        within("channels", self.channels, 1, MAX_CHANNELS)
        within("window_samples", self.window_samples, 0, MAX_WINDOW_SAMPLES)
        within("hop_samples", self.hop_samples, 0, MAX_WINDOW_SAMPLES)
        within("preemphasis", self.preemphasis, 0, 1)
        if self.features is not None:
            require(self.channels == 1, "features are taken of one channel: leave channels out")
            micro = self.features.type == "micro"
            require(
                not micro or self.sample_rate == MICRO_RATE,
                f"features of type micro need a sample_rate of {MICRO_RATE}",
            )
            require(
                micro or max(self.features.low_hz, self.features.high_hz) <= self.sample_rate / 2,
                "low_hz and high_hz must not be above half the sample_rate",
            )

    def window(self, shape: Sequence[int]) -> int:
        """Samples of a window for an input of this shape (an open batch counts as 1).

        Raises:
            ContractError: a window does not fill the input.
        """
        parts = self.channels if self.features is None else self.features.bins
        window = self.window_samples
        size = values_of(shape, parts * (window if self.features is None else self.features.frames(window)))
        if not window and size % parts == 0:
            window = size // parts if self.features is None else self.features.samples(size // parts)
        found = window * parts if self.features is None else self.features.frames(window) * parts
        if found != size:
            what = f"{self.channels} channels" if self.features is None else f"{parts} values a frame"
            raise ContractError(
                f"audio: a window of {window} samples gives {found} values ({what}), but the input {list(shape)} takes "
                f"{size}"
            )
        within("window_samples", window, 1, MAX_WINDOW_SAMPLES)
        if self.features is not None:
            within("frames x fft_samples", self.features.frames(window) * self.features.fft, 1, _MAX_FFT_WORK)
        return window
