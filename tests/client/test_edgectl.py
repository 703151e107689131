"""The operator's command, run as users run it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from box_server import FakeBox

from edge_runtime.cli import answer, edgectl
from edge_runtime.cli.table import printable, render
from edge_runtime.contract import bundle, manifest
from edge_runtime.contract.bundle import BundleReader

MODEL = b"\x1c\x00\x00\x00TFL3" + bytes(100)
COMMANDS = ("keygen", "discover", "push", "models", "infer", "rollback", "activate", "remove", "watch", "status")
DIGITS = {
    "name": "digits",
    "version": "1.0.0",
    "state": "COMMITTED",
    "task": "classification",
    "engine": "litert",
    "kernels": "fast",
    "signed_by": None,
    "inputs": [{"name": "x", "datatype": "INT8", "shape": [1, 8, 8, 1]}],
    "versions": [{"version": "1.0.0", "active": True}, {"version": "0.9.0", "active": False}],
}


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A bare model."""
    path = tmp_path / "flowers.tflite"
    path.write_bytes(MODEL)
    return path


def command(*arguments: object) -> list[str]:
    """The command line of a child process."""
    return [sys.executable, "-m", "edge_runtime.cli.edgectl", *map(str, arguments)]


def test_help_needs_no_device_stack() -> None:
    """`edgectl --help` pulls in neither numpy nor zeroconf nor servers nor engines, nor even the HTTP client."""
    code = (
        "import sys\n"
        "from edge_runtime.cli.edgectl import main\n"
        "try: main(['push', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(' '.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "numpy",
        "zeroconf",
        "uvicorn",
        "ai_edge_litert",
        "tflite_runtime",
        "urllib3",
        "cryptography",
        "tqdm",
        "PIL",
    }
    assert not heavy & set(done.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`edgectl COMMAND --help` ends with an example that can be typed."""
    with pytest.raises(SystemExit) as ended:
        edgectl.main([name, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  edgectl {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["models"],
        ["discover", "--wait", "-1"],
        ["discover", "--wait", "nan"],
        ["keygen", "../x"],
        ["push", "m", "--to", "b", "--std", "0"],
        ["push", "m", "--to", "b", "--sign", "k", "--unsigned"],
    ],
)
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be meant ends with 2."""
    with pytest.raises(SystemExit) as ended:
        edgectl.main(arguments)
    assert ended.value.code == 2
    assert "usage: edgectl" in capsys.readouterr().err


def test_push_of_a_bare_model(box: FakeBox, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bare model arrives as a bundle with the options in it; progress and each state are shown."""
    labels = tmp_path / "l.txt"
    labels.write_text("rose\ntulip\n")
    options = [
        "--labels",
        str(labels),
        "--mean",
        "127.5",
        "--std",
        "127.5",
        "--color",
        "BGR",
        "--task",
        "classification",
        "--set",
        "output.threshold=0.5",
        "--set",
        "input.resize=crop",
    ]
    assert edgectl.main(["push", str(model), "--to", box.url, *options]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["RECEIVED", "VERIFIED", "STAGED", "TRIAL", f"COMMITTED m 1.0.0 on {box.url[7:]}"]
    assert "flowers.tflite becomes the bundle flowers 1.0.0, not signed" in shown.err
    assert "100%" not in shown.err, "a progress bar without a terminal"
    sent = tmp_path / "sent"
    sent.write_bytes(box.received)
    with BundleReader(sent) as reader:
        assert bundle.SIGNATURE not in reader.names
        assert reader.read_member(bundle.LABELS) == b"rose\ntulip\n"
        told = manifest.parse(reader.read_member(bundle.MANIFEST))
    assert told.input == manifest.InputDeclaration(
        kind="image", mean=(127.5,), std=(127.5,), color="BGR", resize="crop"
    )
    assert (told.task, told.output) == ("classification", manifest.OutputDeclaration(threshold=0.5))


def test_push_signs_with_the_key_that_keygen_made(
    box: FakeBox, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`keygen` without arguments makes the key that `push` then uses; neither overwrites it."""
    assert edgectl.main(["keygen"]) == 0
    said = capsys.readouterr().out
    assert "default.key" in said
    assert "/etc/edge-runtime/trusted/" in said
    assert edgectl.main(["keygen"]) == 1
    assert "is not overwritten" in capsys.readouterr().err
    assert edgectl.main(["push", str(model), "--to", box.url, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["state"] == "COMMITTED"
    assert "signed with" in shown.err
    assert bundle.SIGNATURE.encode() in box.received


def test_keygen_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` gives both paths; the private key is for its owner only."""
    assert edgectl.main(["keygen", "ci", "--dir", str(tmp_path / "keys"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert Path(made["private"]).stat().st_mode & 0o777 == 0o600
    assert made["public"] == str(tmp_path / "keys" / "ci.pub")
    assert len(made["keyid"]) == 16


def test_push_that_is_refused(box: FakeBox, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal ends with 1 and the box's reason."""
    box.refusal = "no valid signature"
    assert edgectl.main(["push", str(model), "--to", box.url]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "refused: no valid signature"


def test_push_of_what_is_no_model(box: FakeBox, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is neither bundle nor model is refused before anything is sent."""
    path = tmp_path / "x.bin"
    path.write_bytes(b"something else")
    assert edgectl.main(["push", str(path), "--to", box.url]) == 1
    assert "not a bundle and not a TFLite model" in capsys.readouterr().err
    assert edgectl.main(["push", str(tmp_path / "absent"), "--to", box.url]) == 1
    assert "No such file" in capsys.readouterr().err
    assert not box.requests


def test_push_of_a_bundle(box: FakeBox, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle goes as it is, and options that would change it are a usage error."""
    path = tmp_path / "m-1.0.0.edgemodel"
    path.write_bytes(b"PK\x03\x04 anything")
    assert edgectl.main(["push", str(path), "--to", box.url, "--name", "other", "--invert"]) == 2
    assert "leave out --name, --invert" in capsys.readouterr().err
    assert edgectl.main(["push", str(path), "--to", box.url]) == 0
    assert bytes(box.received) == path.read_bytes()


def test_models(box: FakeBox, capsys: pytest.CaptureFixture[str]) -> None:
    """Models are shown in a table, or as the box describes them."""
    assert edgectl.main(["models", "--to", box.url]) == 0
    assert capsys.readouterr().out == "no models\n"
    box.models = [DIGITS]
    assert edgectl.main(["models", "--to", box.url]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["NAME", "VERSION", "STATE"]
    assert row.split("  ")[0] == "digits"
    for cell in ("litert fast", "INT8[1, 8, 8, 1]", "0.9.0"):
        assert cell in row
    assert edgectl.main(["models", "--to", box.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [DIGITS]


def test_infer(box: FakeBox, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file goes with the type that it looks like, and the answer is lines of score and label."""
    picture = tmp_path / "seven"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n...")
    result = {"task": "classification", "classes": [{"label": "seven", "score": 0.91, "index": 7}]}
    document = {"model": "digits", "version": "1.0.0", "result": result, "latency_ms": 1.25}
    box.answers["POST /models/digits/predict"] = (200, json.dumps(document).encode())
    assert edgectl.main(["infer", "digits", str(picture), "--to", box.url]) == 0
    assert capsys.readouterr().out == "digits 1.0.0  (1.2 ms)\n0.9100  seven\n"
    assert box.requests[-1][2:] == (picture.read_bytes(), "image/png")
    assert edgectl.main(["infer", "digits", str(picture), "--to", box.url, "--json", "--content-type", "image/x"]) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert box.requests[-1][3] == "image/x"
    assert edgectl.main(["infer", "digits", str(picture), "--to", box.url, "--raw"]) == 0
    assert box.requests[-1][1] == "/models/digits/predict?raw=1"


def test_switching_and_removing(box: FakeBox, capsys: pytest.CaptureFixture[str]) -> None:
    """Roll back, activate and remove say what is served now."""
    switched = (200, b'{"model": "m", "version": "1.0.0", "previous": "2.0.0"}')
    box.answers["POST /models/m/rollback"] = box.answers["POST /models/m/activate"] = switched
    box.answers["DELETE /models/m"] = (200, b'{"removed": "m"}')
    for arguments, said in (
        (["rollback", "m"], "m serves 1.0.0 (was 2.0.0)\n"),
        (["activate", "m", "1.0.0"], "m serves 1.0.0 (was 2.0.0)\n"),
        (["remove", "m"], "removed m\n"),
    ):
        assert edgectl.main([*arguments, "--to", box.url]) == 0
        assert capsys.readouterr().out == said
        assert edgectl.main([*arguments, "--to", box.url, "--json"]) == 0
        assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_status_and_watch(box: FakeBox, capsys: pytest.CaptureFixture[str]) -> None:
    """Status lists problems and fails where the box has; watch repeats it with the models."""
    health = {
        "status": "failed",
        "device": "kitchen",
        "version": "0.1.0",
        "problems": {"disk": "full"},
        "uptime_seconds": 5,
    }
    box.answers["GET /healthz"] = (503, json.dumps(health).encode())
    box.models = [DIGITS]
    assert edgectl.main(["status", "--to", box.url]) == 1
    said = capsys.readouterr().out
    assert said == "kitchen: failed (edge-runtime 0.1.0, up 5 s)\n  disk: full\n"
    assert edgectl.main(["watch", "--to", box.url, "--count", "2", "--interval", "0.01"]) == 0
    watched = capsys.readouterr().out
    assert watched.count(said) == 2
    assert watched.count("digits") == 2


def test_errors_are_one_line(box: FakeBox, capsys: pytest.CaptureFixture[str]) -> None:
    """What the box refuses ends with 1 and its words."""
    assert edgectl.main(["rollback", "x", "--to", box.url]) == 1
    assert capsys.readouterr().err == "edgectl rollback: there is no POST /models/x/rollback\n"


def test_ctrl_c_is_quiet(box: FakeBox) -> None:
    """Ctrl-C ends with 130 and without a traceback."""
    box.answers["GET /healthz"] = (200, b'{"status": "ok"}')
    # Whoever runs the tests in the background of a shell has them ignore SIGINT, and a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        child = subprocess.Popen(
            command("watch", "--to", box.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with child:
        assert child.stdout
        assert child.stdout.readline()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert (child.returncode, errors) == (130, "")


def test_a_reader_that_leaves_is_no_error(box: FakeBox) -> None:
    """`edgectl ... | head` prints no traceback."""
    box.models = [DIGITS] * 5000
    with subprocess.Popen(
        command("models", "--to", box.url, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.close()
        errors = child.stderr.read()
        child.wait(20)
    assert (child.returncode, errors) == (141, "")


def test_table_cells_cannot_steer_the_terminal() -> None:
    """Columns are aligned also for wide characters, and escape sequences from the network are not passed on."""
    lines = render(("A", "B"), [("箱", 1), ("\x1b[2Jx", 2)]).splitlines()
    assert lines == ["A      B", "箱     1", "\ufffd[2Jx  2"]
    assert printable("a\r\nb") == "a\ufffd\ufffdb"


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("x", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("x.txt", b"BM....", "image/bmp"),
        ("x", b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        ("x", b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
        ("x.csv", b"1,2", "text/csv"),
        ("x", b" [1, 2]", "application/json"),
        ("x.JSON", b"1", "application/json"),
        ("x.bin", b"\0\1", "application/octet-stream"),
    ],
)
def test_content_type(name: str, data: bytes, kind: str) -> None:
    """What a file is, is seen by how it begins, then by its name."""
    assert answer.content_type(name, data) == kind


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        ({"classes": [], "label": None, "score": None}, ["     -  no class above the threshold"]),
        ({"objects": []}, ["nothing found"]),
        (
            {"objects": [{"label": "cat", "score": 0.5, "box": {"ymin": 0.1, "xmin": 0.2}}]},
            ["0.5000  cat  ymin=0.100 xmin=0.200"],
        ),
        ({"value": 3.5, "unit": "°C"}, ["3.5 °C"]),
        ({"answers": [{"value": 1}, {"value": 2}]}, ["sample 0", "1", "sample 1", "2"]),
        ({"values": {"x": 1.5, "y": 2}, "unit": "g"}, ["x: 1.5 g", "y: 2 g"]),
        ({"values": [1, 2]}, ["1 2"]),
        ({"score": 0.4, "anomaly": True, "threshold": 0.3}, ["ANOMALY  score 0.4 (threshold 0.3)"]),
        ({"score": 0.2, "anomaly": False, "threshold": 0.3}, ["normal  score 0.2 (threshold 0.3)"]),
        ({"points": [{"label": "nose", "y": 0.25, "x": 0.5, "score": 0.9}]}, ["0.9000  nose  y=0.250 x=0.500"]),
        ({"dimension": 9, "vector": [0.5] * 9}, ["9 numbers: " + "0.5 " * 8 + "..."]),
        (
            {"size": [4, 5], "classes": [{"label": "road", "share": 0.75, "rle": {"counts": [1]}}], "note": "x"},
            ["mask of 4 x 5", " 75.0 %  road", "x"],
        ),
        (
            {"outputs": {"y": {"datatype": "FP32", "shape": [1, 2], "min": 0.0, "max": 1.0, "mean": 0.5}}},
            ["y FP32[1, 2]  min 0.0, max 1.0, mean 0.5"],
        ),
        (
            {"value": 2, "outputs": {"y": {"datatype": "FP32", "shape": [2], "values": [1, 2]}}},
            ["2", "y FP32[2]  1 2"],
        ),
        ({"outputs": 1}, ["{", '  "outputs": 1', "}"]),
        ([1, 2], ["[1, 2]"]),
    ],
)
def test_answers_in_lines(result: object, lines: list[str]) -> None:
    """Every form of answer becomes lines that a person can read."""
    assert list(answer.lines({"model": "m", "version": "1", "result": result}))[1:] == lines
