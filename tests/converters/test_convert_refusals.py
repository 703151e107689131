"""What cannot be converted: one clear line on stderr, exit 1, and no file left behind."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits_example import DIGITS, ROOT, Convert

from converters import cli
from edge_runtime.contract import bundle, manifest

MODEL = DIGITS / "digits_float.tflite"
GOOD = np.random.default_rng(0).random((20, 8, 8, 1), dtype=np.float32)
NAN, INFINITE = GOOD.copy(), GOOD.copy()
NAN[3, 0, 0, 0], INFINITE[5, 0, 0, 0] = np.nan, np.inf


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run edge-convert, insist on exit 1, one line on stderr and no file; returns the line."""
    before = set(tmp_path.iterdir())
    status = cli.main([*arguments, "-o", str(tmp_path / "m-1.0.0.edgemodel")])
    line = capsys.readouterr().err
    assert status == 1
    assert line.startswith("edge-convert: ")
    assert line.count("\n") == 1
    assert set(tmp_path.iterdir()) == before
    return line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"x": GOOD[:0]}, "no samples"),
        ({"x": NAN}, "first in sample 3"),
        ({"x": INFINITE}, "first in sample 5"),
        ({"x": np.full_like(GOOD, 0.5)}, "constant (0.5)"),
        ({"x": GOOD[:, :7]}, "(n, 8, 8, 1)"),
        ({"x": np.float32(1)}, "(n, 8, 8, 1)"),
        ({"picture": GOOD}, "the model's inputs are image (or x)"),
        ({"x": GOOD, "z": GOOD}, "has arrays image, z"),
        ({"x": GOOD.astype(str)}, "not numbers"),
        ({"x": GOOD, "y": np.zeros(3, np.int64)}, "labels y"),
        ({"x": GOOD, "y": np.full(20, 10)}, "the model has classes 0 to 9"),
        ({"x": GOOD[:1]}, "one sample is not enough"),
    ],
)
def test_sample_data_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, Any], says: str
) -> None:
    """Each fault of a data file is named with the value that is wrong."""
    np.savez(tmp_path / "data.npz", **content)
    assert says in refused(tmp_path, capsys, str(MODEL), "--calibrate", str(tmp_path / "data.npz"))


def test_a_data_file_that_is_no_npz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, a lone array and pickles are refused; nothing is ever unpickled."""
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "pickle.npz", x=np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "lone.npy", GOOD)
    for name, says in (("text.npz", "not a readable"), ("pickle.npz", "not a readable"), ("lone.npy", "single array")):
        assert says in refused(tmp_path, capsys, str(MODEL), "--calibrate", str(tmp_path / name))
    assert "no such file" in refused(tmp_path, capsys, str(MODEL), "--calibrate", str(tmp_path / "absent.npz"))


def test_a_static_scheme_without_calibration_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """int8 cannot guess ranges, and a scheme that needs none still needs samples to prove itself."""
    assert "--quantize int8 needs" in refused(tmp_path, capsys, str(MODEL))
    assert "give --evaluate" in refused(tmp_path, capsys, str(MODEL), "--quantize", "dynamic").replace(
        "need --", "give --"
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cut.tflite", MODEL.read_bytes()[:20_000], "the engine refuses the model"),
        ("short.tflite", b"TFL3", "not a .tflite"),
        ("mark.tflite", b"\x10\0\0\0TFL3", "cut"),
        ("text.tflite", b"hello hello hello", "not a .tflite"),
        ("model.onnx", b"", "'.onnx' is not supported; supported: .tflite"),
        ("model", b"", "supported: .tflite"),
    ],
)
def test_a_source_that_is_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, says: str
) -> None:
    """A broken file is refused by a child process, whatever it does to the engine."""
    (tmp_path / name).write_bytes(content)
    line = refused(tmp_path, capsys, str(tmp_path / name), "--quantize", "none")
    assert (says if says != "cut" else name) in line


def test_an_absent_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there is named."""
    assert "cannot be read: No such file" in refused(tmp_path, capsys, str(tmp_path / "no.tflite"))


def test_a_quantized_source_is_not_quantized_twice(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused, and --quantize none bundles it as it is."""
    assert convert() == 0
    with bundle.BundleReader(tmp_path / "digits-1.0.0.edgemodel") as reader:
        content = reader.read_member(bundle.MODEL)
    (tmp_path / "q.tflite").write_bytes(content)
    np.savez(tmp_path / "data.npz", x=GOOD)
    capsys.readouterr()
    data = ("--calibrate", str(tmp_path / "data.npz"))
    assert "quantized already" in refused(tmp_path, capsys, str(tmp_path / "q.tflite"), *data)
    target = tmp_path / "q-1.0.0.edgemodel"
    assert cli.main([str(tmp_path / "q.tflite"), "-o", str(target), "--quantize", "none", *data]) == 0
    with bundle.BundleReader(target) as reader:
        assert reader.read_member(bundle.MODEL) == content


def test_labels_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nine labels for ten classes, no labels, and labels that are no text are refused."""
    np.savez(tmp_path / "data.npz", x=GOOD)
    for name, content, says in (
        ("nine.txt", b"a\n" * 9, "9 labels, but the model has 10 classes"),
        ("none.txt", b"", "0 labels"),
        ("bytes.txt", b"\xff\xfe\xfa", "UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        data = ("--calibrate", str(tmp_path / "data.npz"), "--labels", str(tmp_path / name))
        assert says in refused(tmp_path, capsys, str(MODEL), *data)


def test_declarations_that_do_not_fit_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three means for one channel cannot be meant."""
    np.savez(tmp_path / "data.npz", x=GOOD)
    data = ("--calibrate", str(tmp_path / "data.npz"))
    assert "1 channels" in refused(tmp_path, capsys, str(MODEL), *data, "--mean", "1", "2", "3")


def test_a_key_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key is read before the long work."""
    (tmp_path / "bad.key").write_text("no key")
    assert "Ed25519" in refused(tmp_path, capsys, str(MODEL), "--sign", str(tmp_path / "bad.key"))


def test_the_gate_refuses_and_force_is_remembered(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A drop above --max-drop writes nothing and gives the numbers; --force writes, and provenance says so."""
    np.savez(tmp_path / "narrow.npz", x=GOOD * 0.02)  # ranges far too small: every real digit is clipped
    narrow = ("--calibrate", str(tmp_path / "narrow.npz"))
    target = tmp_path / "digits-1.0.0.edgemodel"
    assert convert(*narrow) == 1
    captured = capsys.readouterr()
    assert not target.exists()
    assert "more than --max-drop 0.02" in captured.err
    assert "accuracy, built-in kernels" in captured.out
    assert convert(*narrow, "--force") == 0
    with bundle.BundleReader(target) as reader:
        found = manifest.parse(reader.read_member(bundle.MANIFEST))
    assert found.provenance["gate"] == "forced"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["m.tflite"],
        ["m.tflite", "-o", "m.edgemodel"],
        ["m.tflite", "-o", "m-1.0.0.zip"],
        ["m.tflite", "-o", "m.edgemodel", "--name", "m", "--version", "one"],
        ["m.tflite", "-o", "m-1.0.0.edgemodel", "--name", "a/b"],
        ["m.tflite", "-o", "m-1.0.0.edgemodel", "--quantize", "auto"],
        ["m.tflite", "-o", "m-1.0.0.edgemodel", "--max-drop", "2"],
        ["m.tflite", "-o", "m-1.0.0.edgemodel", "--std", "0"],
        ["m.tflite", "-o", "m-1.0.0.edgemodel", "--invert"],
        ["m.tflite", "-o", "m-1.0.0.edgemodel", "--report", "r.html"],
    ],
)
def test_wrong_use_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors are told from failures by the exit status, and need no file to exist."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: edge-convert" in capsys.readouterr().err


def test_an_output_folder_that_is_absent_or_a_folder_in_its_place(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The target is checked before the long work."""
    (tmp_path / "dir-1.0.0.edgemodel").mkdir()
    assert convert(output="nowhere/digits-1.0.0.edgemodel") == 1
    assert "there is no folder" in capsys.readouterr().err
    assert convert(output="dir-1.0.0.edgemodel") == 1
    assert "is a folder" in capsys.readouterr().err


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def test_a_write_that_fails_half_way_keeps_the_old_bundle(digits_data: tuple[Path, Path], tmp_path: Path) -> None:
    """When the bundle does not fit, the file that was there stays whole and no temporary file is left."""
    target = tmp_path / "digits-1.0.0.edgemodel"
    target.write_bytes(b"the old one")
    command = [
        sys.executable,
        "-m",
        "converters.cli",
        str(MODEL),
        "-o",
        str(target),
        "--calibrate",
        str(digits_data[0]),
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, preexec_fn=_limit_file_size, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "cannot be written: File too large" in run.stderr
    assert run.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.read_bytes() == b"the old one"


def test_a_missing_quantizer_is_named_with_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device install has no quantizer; the message gives the extra that brings it."""
    np.savez(tmp_path / "data.npz", x=GOOD)
    monkeypatch.setitem(sys.modules, "litert_quantizer", None)
    line = refused(tmp_path, capsys, str(MODEL), "--calibrate", str(tmp_path / "data.npz"))
    assert "pip install 'edge-runtime[convert]'" in line
