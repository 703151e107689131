"""The digits example as the converters' test bed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from digits_example import DIGITS, Convert

from converters import cli


@pytest.fixture(scope="session")
def digits_module() -> ModuleType:
    """examples/digits/data.py, loaded from its file."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    spec = importlib.util.spec_from_file_location("digits_data", DIGITS / "data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["digits_data"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def digits_data(digits_module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A part of calibrate.npz (60 samples) and evaluate.npz (100) of the digits: enough, and quick."""
    folder = tmp_path_factory.mktemp("digits")
    calibrate, evaluate = digits_module.write(folder)
    with np.load(calibrate) as full:
        np.savez(folder / "c.npz", x=full["x"][:60])
    with np.load(evaluate) as full:
        np.savez(folder / "e.npz", x=full["x"][:100], y=full["y"][:100])
    return folder / "c.npz", folder / "e.npz"


@pytest.fixture
def convert(digits_data: tuple[Path, Path], tmp_path: Path) -> Convert:
    """Run edge-convert on the digits model into tmp_path/digits-1.0.0.edgemodel; more options may follow."""

    def run(*options: str, output: str = "digits-1.0.0.edgemodel", evaluate: bool = True) -> int:
        data = ["--calibrate", str(digits_data[0])] + (["--evaluate", str(digits_data[1])] if evaluate else [])
        return cli.main([str(DIGITS / "digits_float.tflite"), "-o", str(tmp_path / output), *data, *options])

    return run
