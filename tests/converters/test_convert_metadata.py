"""TFLite Metadata of a source: labels and normalization reach the bundle, or the output says that they do not."""

from pathlib import Path

import numpy as np
import pytest
from digits_example import DIGITS
from hypothesis import given
from hypothesis import strategies as st
from peers import require_shared
from test_convert_bundle import read
from tflite_files import with_archive, with_metadata

from converters import cli
from edge_runtime.contract import bundle, tflite_metadata
from edge_runtime.contract.manifest import InputDeclaration

CONTENT = (DIGITS / "digits_float.tflite").read_bytes()
LABELS = (DIGITS / "labels.txt").read_text()
WITH_BOTH = with_metadata(CONTENT, {"labels.txt": LABELS}, normalization=([0.0], [255.0]))


def run(tmp_path: Path, data: tuple[Path, Path], content: bytes, *options: str) -> int:
    """Run edge-convert on these bytes into tmp_path/m-1.0.0.edgemodel."""
    (tmp_path / "m.tflite").write_bytes(content)
    target = str(tmp_path / "m-1.0.0.edgemodel")
    return cli.main([str(tmp_path / "m.tflite"), "-o", target, "--calibrate", str(data[0]), *options])


@pytest.mark.parametrize("scheme", ["int8", "none"])
def test_labels_and_normalization_are_taken_over(
    tmp_path: Path, digits_data: tuple[Path, Path], capsys: pytest.CaptureFixture[str], scheme: str
) -> None:
    """The converted model has no archive any more, so labels.txt and the manifest carry what was in it."""
    assert run(tmp_path, digits_data, WITH_BOTH, "--quantize", scheme) == 0
    found, members = read(tmp_path / "m-1.0.0.edgemodel")
    assert members[bundle.LABELS].decode() == LABELS
    assert (found.task, found.input) == ("classification", InputDeclaration("image", std=(255.0,)))
    out = capsys.readouterr().out
    assert "10 labels: taken over from the source's TFLite Metadata" in out
    assert "input normalization: taken over" in out


def test_options_win_over_metadata(
    tmp_path: Path, digits_data: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """--labels and --input say otherwise; the output tells which file was left out."""
    (tmp_path / "l.txt").write_text("\n".join("abcdefghij"))
    options = ("--labels", str(tmp_path / "l.txt"), "--mean", "2", "--std", "3")
    assert run(tmp_path, digits_data, WITH_BOTH, *options) == 0
    found, members = read(tmp_path / "m-1.0.0.edgemodel")
    assert members[bundle.LABELS].split() == [bytes([c]) for c in b"abcdefghij"]
    assert found.input == InputDeclaration("tensor", mean=(2.0,), std=(3.0,))
    assert "not taken over, of the files in the source: labels.txt (--labels is given)" in capsys.readouterr().out


def test_an_archive_that_no_metadata_explain_is_left_out_and_told(
    tmp_path: Path, digits_data: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A file behind the model that nothing calls labels is no label file, but the user learns of it."""
    assert run(tmp_path, digits_data, with_archive(CONTENT, {"labels.txt": LABELS})) == 0
    assert bundle.LABELS not in read(tmp_path / "m-1.0.0.edgemodel")[1]
    assert "not taken over, of the files in the source: labels.txt" in capsys.readouterr().out


def test_labels_in_metadata_that_do_not_fit(
    tmp_path: Path, digits_data: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A box would refuse them; here the way out is --labels."""
    assert run(tmp_path, digits_data, with_metadata(CONTENT, {"labels.txt": "a\nb\n"})) == 1
    line = capsys.readouterr().err
    assert "TFLite Metadata: 2 labels, but the model has 10 classes; give --labels" in line
    assert (tmp_path / "m-1.0.0.edgemodel").exists() is False


def test_samples_must_fit_the_normalization_of_the_metadata(
    tmp_path: Path, digits_data: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """What the metadata say of pixels is judged like what options say."""
    with np.load(digits_data[0]) as full:
        np.savez(tmp_path / "raw.npz", x=full["x"] * 255)
    assert run(tmp_path, (tmp_path / "raw.npz", digits_data[1]), WITH_BOTH) == 1
    assert "by TFLite Metadata (mean 0, std 255) pixels become 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "labels", "first"),
    [
        ("mobilenet_v1_0.25_224_quant", 1001, "background"),
        ("coco_ssd_mobilenet_v1_1.0_quant_2018_06_29", 90, "person"),
    ],
)
def test_real_metadata_are_read(name: str, labels: int, first: str) -> None:
    """Labels and normalization of files that others wrote."""
    found = tflite_metadata.read(require_shared(f"models/vision/{name}.tflite").read_bytes())
    assert (len(found.labels), found.labels[0]) == (labels, first)
    assert found.input == InputDeclaration("image", mean=(127.5,), std=(127.5,))


@given(st.integers(0, 2000), st.integers(0, 255), st.integers(0, 400))
def test_broken_metadata_count_as_absent(position: int, value: int, cut: int) -> None:
    """Damage in the metadata or the archive never stops a conversion with an error of a library."""
    content = bytearray(WITH_BOTH[: len(WITH_BOTH) - cut])
    start = WITH_BOTH.index(b"M001") - 4
    content[min(start + position, len(content) - 1)] = value
    tflite_metadata.read(bytes(content))
