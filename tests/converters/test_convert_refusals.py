"""What cannot be converted: one clear line on stderr, exit 1, and no file left behind."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from digits_example import MODEL, ROOT, Convert, refused

from converters import cli
from edge_runtime.contract import bundle, manifest

GOOD = np.random.default_rng(0).random((20, 8, 8, 1), dtype=np.float32)


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
        ("model.bin", b"", "sources of kind '.bin' are not read; give a float .tflite"),
        ("model", b"", "give a float .tflite"),
        ("model.h5", b"", "not read yet; make a float .tflite of it, with tf.lite.TFLiteConverter.from_keras_model"),
        ("model.KERAS", b"", "with tf.lite.TFLiteConverter.from_keras_model"),
        ("model.onnx", b"", "a .onnx is not read yet; make a float .tflite of it, with onnx2tf"),
        ("model.pt2", b"", "with litert_torch.convert"),
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
    """A file that is not there is named, whatever kind it would be."""
    for name in ("no.tflite", "no.h5", "no"):
        assert f"{name}: there is no such file" in refused(tmp_path, capsys, str(tmp_path / name))


def test_a_folder_as_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with saved_model.pb is a SavedModel, and so is that file; any other folder is none."""
    folder = tmp_path / "net.tflite"
    folder.mkdir()
    assert "no SavedModel (it has no saved_model.pb)" in refused(tmp_path, capsys, str(folder))
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    for source in (folder, folder / "saved_model.pb"):
        line = refused(tmp_path, capsys, str(source))
        assert "a SavedModel folder is not read yet" in line
        assert "TFLiteConverter.from_saved_model" in line


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
    """The key is read before the long work; one that is not there is told as that."""
    line = refused(tmp_path, capsys, str(MODEL), "--sign", str(tmp_path / "absent.key"))
    assert "absent.key: there is no such file" in line
    assert "Errno" not in line
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
        ["m.tflite", "-o", "m-1.0.0.edgemodel", "--version", "2.0.0"],
        ["m.tflite", "-o", "m-1.0.0.edgemodel", "--name", "n", "--version", "1.0.0"],
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


def test_a_name_and_a_version_that_contradict_the_file_name(
    convert: Convert, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the file's name says and an option denies is told with both values; saying it twice is no fault."""
    for option, value, says in (("--version", "2.0.0", "version 1.0.0"), ("--name", "other", "name digits")):
        with pytest.raises(SystemExit):
            convert(option, value)
        line = capsys.readouterr().err
        assert f"says {says}, but {option} says {value}: they contradict each other" in line
    assert convert("--name", "digits", "--version", "1.0.0", "--quantize", "none") == 0


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
    # A coverage measurement would write a file of its own, and complain that it cannot.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environment = {**kept, "PYTHONDONTWRITEBYTECODE": "1"}
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
