"""KServe's client against a real daemon. It has an environment of its own: it asks for other versions of much."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from boxes import RunningBox, as_json, running_box
from bundles import digits, make
from echo_models import echo_model
from peers import require_kserve

PEER = Path(__file__).with_name("kserve_peer.py")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBox]:
    """A daemon with digits, half floats and texts."""
    with running_box(tmp_path_factory.mktemp("kserve")) as running:
        assert running.push(digits())["state"] == "COMMITTED"
        for name, datatype in (("half", "FP16"), ("text", "BYTES")):
            model = echo_model({"x": datatype}, (1, 2))  # type: ignore[dict-item]  # both are datatypes
            assert running.push(make({"model.tflite": model}, name=name, task="raw"))["state"] == "COMMITTED"
        yield running


@pytest.mark.timeout(120)
def test_kserve_s_client_gets_what_it_asks_for(box: RunningBox) -> None:
    """Health, JSON and binary inference, FP16 and text, and protocol v1."""
    python = require_kserve()
    run = subprocess.run([python, PEER, box.url], capture_output=True, text=True, check=False, timeout=110)
    assert run.returncode == 0, run.stderr[-3000:]
    got = json.loads(run.stdout.splitlines()[-1])
    picture = np.arange(-32, 32).reshape(1, 8, 8, 1).tolist()
    entry = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "INT8", "data": picture}
    _, plain = box.post("/v2/models/digits/infer", as_json({"inputs": [entry]}))
    scores = [plain["outputs"][0]["data"]]
    assert got["live"] is got["ready"] is got["model ready"] is got["v1 ready"] is True
    assert got["other ready"] is False
    assert got["JSON"] == got["binary"] == got["v1"] == scores
    assert got["JSON id"] == got["binary id"] == "7"
    assert got["half"] == [[-1.5, 65504]]
    assert got["text"] == ["Größe", "b"]
