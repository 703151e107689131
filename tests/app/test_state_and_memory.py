"""On a real daemon, over HTTP: sequences of a model that keeps state, and models that are unloaded and loaded."""

import json
from pathlib import Path
from typing import Any

from boxes import RunningBox, as_json, running_box
from bundles import digits_content, make
from stateful_models import accumulator

from edge_runtime.contract.bundle import MODEL


def infer(box: RunningBox, value: float, **parameters: object) -> tuple[int, Any]:
    """A tensor request; returns the status, and the sum or the error."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [value]}
    status, answer = box.post("/v2/models/sum/infer", as_json({"inputs": [tensor], "parameters": parameters}))
    return status, answer["outputs"][0]["data"][0] if status == 200 else answer["error"]


def predict(box: RunningBox, value: float, query: str = "") -> Any:
    """A prediction; returns the sum."""
    status, answer = box.post(f"/models/sum/predict{query}", as_json([value]), "application/json")
    assert status == 200, answer
    return json.dumps(answer["result"])


def test_sequences_over_http_and_an_operator_who_unloads(tmp_path: Path) -> None:
    """Tensor requests and predictions are steps of the same sequence; nobody without its id meets its state."""
    with running_box(tmp_path) as box:
        box.push(make({MODEL: accumulator()}, name="sum", task="regression"))
        assert infer(box, 2, sequence_id="s", sequence_start=True) == (200, 2)
        assert infer(box, 2) == (200, 2)
        assert "7" in predict(box, 5, "?sequence_id=s")
        assert "5" in predict(box, 5)
        assert infer(box, 1, sequence_id="s", sequence_end=True) == (200, 8)
        status, error = infer(box, 1, sequence_id="s")
        assert (status, "sequence_start" in error) == (400, True)

        assert box.post("/v2/repository/models/sum/unload")[0] == 200
        status, error = infer(box, 1)
        assert (status, "load it" in error) == (503, True)
        (entry,) = box.post("/v2/repository/index")[1]
        assert (entry["name"], entry["state"]) == ("sum", "UNAVAILABLE")
        assert box.http.request("GET", f"{box.url}/v2/models/sum/ready", retries=False).status == 503
        box.terminate()
    with running_box(tmp_path) as box:
        assert infer(box, 1)[0] == 503
        assert box.get("/healthz")["status"] == "ok"
        assert box.post("/v2/repository/models/sum/load")[0] == 200
        assert infer(box, 1) == (200, 1)


def test_more_models_than_fit_are_all_answered(tmp_path: Path) -> None:
    """One after the other, on a box with room for two of three."""
    content = {MODEL: digits_content()[MODEL]}
    with running_box(tmp_path, "engine.instances=1") as box:
        for name in "abc":
            assert box.push(make(content, name=name))["state"] == "COMMITTED"
        needed = max(model["memory_bytes"] for model in box.get("/models")["models"])
        box.terminate()
    budget = (f"engine.memory_budget_bytes={int(2.5 * needed)}", "engine.memory_min_resident_seconds=0")
    with running_box(tmp_path, "engine.instances=1", *budget) as box:
        body = as_json([[0.0] * 8] * 8)
        for name in "abcabc":
            status, answer = box.post(f"/models/{name}/predict", body, "application/json")
            assert status == 200, answer
        models = {model["name"]: model["loaded"] for model in box.get("/models")["models"]}
        assert models == {"a": False, "b": True, "c": True}
        assert all(entry["state"] == "READY" for entry in box.post("/v2/repository/index")[1])
        assert box.get("/healthz")["status"] == "ok"
