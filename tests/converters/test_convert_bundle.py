"""What edge-convert writes: a bundle that keeps to the contract and proves itself."""

import io
import json
import os
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits_example import DIGITS, ROOT, Convert

from converters.engine import Model
from converters.quantize import SCHEMES
from edge_runtime.contract import bundle, manifest, signing
from edge_runtime.contract.quantization import dequantize

PICTURE = ("--labels", str(DIGITS / "labels.txt"), "--input", "image", "--mean", "0", "--std", "255")
DTYPES = {"int8": "INT8", "int16x8": "INT16", "int4": "INT8"}


def read(path: Path) -> tuple[manifest.Manifest, dict[str, bytes]]:
    """The manifest and all members of a bundle."""
    with bundle.BundleReader(path) as reader:
        members = {name: reader.read_member(name) for name in reader.names}
    return manifest.parse(members[bundle.MANIFEST]), members


def arrays(content: bytes) -> dict[str, Any]:
    """The arrays of an .npz."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_the_manifest_names_every_member_with_its_digest(convert: Convert, tmp_path: Path) -> None:
    """A box that trusts the manifest can check every byte of the bundle."""
    assert convert(*PICTURE, "--set", "output.top_k=3", "--set", "output.threshold=0.1") == 0
    found, members = read(tmp_path / "digits-1.0.0.edgemodel")
    content = {name: data for name, data in members.items() if name not in (bundle.MANIFEST, bundle.SIGNATURE)}
    assert set(content) == set(bundle.CONTENT)
    assert found.files == {name: bundle.entry(data) for name, data in content.items()}
    assert (found.name, found.version, found.sequence, found.task) == ("digits", "1.0.0", 10**12, "classification")
    assert found.input == manifest.InputDeclaration(kind="image", std=(255.0,))
    assert found.output == manifest.OutputDeclaration(top_k=3, threshold=0.1)
    assert found.provenance["gate"] == "passed"
    assert content[bundle.LABELS].decode().split() == [str(n) for n in range(10)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_keeps_the_accuracy_and_its_golden_vectors_reproduce(
    convert: Convert, tmp_path: Path, scheme: str
) -> None:
    """Each scheme passes the gate on the digits; golden outputs are the built-in kernels', to the bit.

    Names and shapes stay the float model's; static schemes have integer inputs and outputs.
    """
    assert convert("--quantize", scheme) == 0
    found, members = read(tmp_path / "digits-1.0.0.edgemodel")
    golden = arrays(members[bundle.GOLDEN])
    assert set(golden) == {"input/image", "output/scores"}
    builtin, fast = Model(members[bundle.MODEL]), Model(members[bundle.MODEL], "fast")
    (image,), (scores,) = builtin.inputs, builtin.outputs
    dtype = DTYPES.get(scheme, "FP32")
    assert (image.name, image.datatype, image.shape) == ("image", dtype, (1, 8, 8, 1))
    assert (scores.name, scores.datatype, scores.shape) == ("scores", dtype, (1, 10))
    assert golden["input/image"].shape[1:] == (1, 8, 8, 1)
    assert len({int(row.argmax()) for row in golden["output/scores"]}) == 10
    for vector, expected in zip(golden["input/image"], golden["output/scores"], strict=True):
        assert np.array_equal(builtin.run({"image": vector})["scores"], expected)
        other = fast.run({"image": vector})["scores"]
        difference = np.abs(dequantize(other, scores) - dequantize(expected, scores))
        assert difference.max() <= found.parity.tolerance


def test_the_same_input_gives_the_same_bytes(convert: Convert, tmp_path: Path) -> None:
    """A bundle can be made again and compared: no time, path or latency is in it."""
    (tmp_path / "again").mkdir()
    assert convert(*PICTURE) == 0
    assert convert(*PICTURE, output="again/digits-1.0.0.edgemodel") == 0
    first, second = tmp_path / "digits-1.0.0.edgemodel", tmp_path / "again" / "digits-1.0.0.edgemodel"
    assert first.read_bytes() == second.read_bytes()


def test_a_signed_bundle_verifies_with_the_public_key(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--sign makes what a box with the public key accepts, and nothing is said about a missing signature."""
    private, public = signing.generate(tmp_path, "lab")
    assert convert("--sign", str(private)) == 0
    _, members = read(tmp_path / "digits-1.0.0.edgemodel")
    key = signing.load_public(public)
    assert signing.verify(members[bundle.MANIFEST], members[bundle.SIGNATURE], (key,)) == key
    captured = capsys.readouterr()
    assert f"signed by {key.keyid}" in captured.out
    assert captured.err == ""


def test_an_unsigned_bundle_says_what_a_box_will_say(convert: Convert, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --sign the user learns now, not at the box."""
    assert convert() == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("note: not signed: ")
    assert "require_signature" in captured.err
    assert "not signed" in captured.out


def test_reference_describes_the_calibration_set(convert: Convert, tmp_path: Path) -> None:
    """reference.json counts every calibration value once, in real units."""
    assert convert() == 0
    found = json.loads(read(tmp_path / "digits-1.0.0.edgemodel")[1][bundle.REFERENCE])
    image, scores = found["inputs"]["image"], found["outputs"]["scores"]
    assert found["samples"] == 60
    assert sum(image["histogram"]["counts"]) == 60 * 64
    assert sum(scores["histogram"]["counts"]) == 60 * 10
    assert len(image["histogram"]["edges"]) == 33
    assert (image["min"], image["max"]) == (0.0, 1.0)


def test_json_report_and_bundle_tell_the_same_numbers(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--json prints one document, --report writes it, report.json is it without what changes from run to run."""
    assert convert("--json", "--report", str(tmp_path / "r.json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "r.json").read_text())
    inside = json.loads(read(tmp_path / "digits-1.0.0.edgemodel")[1][bundle.REPORT])
    assert inside == {key: value for key, value in printed.items() if key not in ("latency_ms", "bundle")}
    assert printed["comparison"]["metric"] == "accuracy"
    assert printed["comparison"]["before"] > 0.98
    assert printed["size_bytes"]["after"] < printed["size_bytes"]["before"] / 3
    assert printed["latency_ms"]["after"] > 0


def test_without_evaluation_data_a_fifth_of_the_calibration_data_is_held_out(
    convert: Convert, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comparison never uses a sample that ranges were learned from, and says where its samples come from."""
    assert convert("--json", evaluate=False) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["calibration"]["samples"], printed["evaluation"]["samples"]) == (48, 12)
    assert "not used for calibration" in printed["evaluation"]["from"]
    assert printed["comparison"]["metric"] == "agreement"


def test_the_table_shows_before_and_after(convert: Convert, capsys: pytest.CaptureFixture[str]) -> None:
    """Size, accuracy and latency stand in a table for a person."""
    assert convert() == 0
    out = capsys.readouterr().out
    for word in ("size", "accuracy", "latency (this host, median, 1 thread)", "golden vectors", "100 samples"):
        assert word in out


def test_progress_is_shown_on_a_terminal_and_only_there(digits_data: tuple[Path, Path], tmp_path: Path) -> None:
    """On a terminal (a real pty) stderr shows bars that go away again; stdout stays one JSON document."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    command = [sys.executable, "-m", "converters.cli", str(DIGITS / "digits_float.tflite"), "--json"]
    command += ["-o", str(tmp_path / "digits-1.0.0.edgemodel"), "--calibrate", str(digits_data[0])]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=slave, check=True)
    os.close(slave)
    shown = os.read(master, 1 << 20).decode()
    os.close(master)
    assert "calibrating" in shown
    assert "XNNPACK" not in shown
    assert json.loads(run.stdout)["name"] == "digits"
