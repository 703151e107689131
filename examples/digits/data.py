"""The handwritten digits of scikit-learn, split once for training, calibration and evaluation.

    python examples/digits/data.py OUTDIR

writes OUTDIR/calibrate.npz (x) and OUTDIR/evaluate.npz (x and y). Evaluation rows are never trained or calibrated on.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 7
HELD_OUT = 450
CALIBRATION = 256


@dataclass(frozen=True)
class Digits:
    """Train and held-out digits: x float32 (n, 8, 8, 1) in [0, 1], y int64 (n,) in 0..9."""

    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]


def load() -> Digits:
    """The one split that training, calibration, evaluation and the demo share: stratified, with a fixed seed."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - heavy; the demo may import this module without it
    from sklearn.model_selection import train_test_split  # noqa: PLC0415 - likewise

    digits: Any = load_digits()
    x = (digits.images / 16.0).astype(np.float32)[..., None]  # pixels are 0..16
    y = digits.target.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=HELD_OUT, stratify=y, random_state=SEED)
    return Digits(train_x, train_y, test_x, test_y)


def held_out_pictures() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Held-out digits as grey pictures, uint8 (n, 8, 8) in 0..255 (ink is white), and their labels, int64 (n,)."""
    digits = load()
    return np.rint(digits.test_x[..., 0] * 255).astype(np.uint8), digits.test_y


def write(directory: Path) -> tuple[Path, Path]:
    """Write calibrate.npz (rows of the training split) and evaluate.npz (all held-out rows); returns both paths."""
    digits = load()
    directory.mkdir(parents=True, exist_ok=True)
    calibrate, evaluate = directory / "calibrate.npz", directory / "evaluate.npz"
    np.savez(calibrate, x=digits.train_x[:CALIBRATION])
    np.savez(evaluate, x=digits.test_x, y=digits.test_y)
    return calibrate, evaluate


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write calibrate.npz and evaluate.npz for the digits model.")
    parser.add_argument("directory", type=Path, metavar="OUTDIR", help="where to write; made if absent")
    for path in write(parser.parse_args().directory):
        print(path)


if __name__ == "__main__":
    main()
