"""Broken, odd and malicious models, pushed to a running daemon: each is refused with a reason, or serves."""

from pathlib import Path

import pytest
from boxes import as_json, running_box
from bundles import digits, make
from peers import require_shared

MAX_RESIDENT_GROWTH_KB = 300_000


def resident_kb(pid: int) -> int:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


@pytest.mark.timeout(300)
def test_no_hostile_model_harms_the_daemon(tmp_path: Path) -> None:
    """The pid stays, the good model goes on answering, nothing is written outside the state folder."""
    models = sorted(require_shared("data/malformed").glob("*.tflite"))
    models += sorted(require_shared("models/refused").glob("*.tflite"))
    assert len(models) > 20
    outcomes = {}
    with running_box(tmp_path / "state") as box:
        box.push(digits())
        before = resident_kb(box.process.pid)
        for path in models:
            view = box.push(make({"model.tflite": path.read_bytes()}, name=path.stem))
            assert view["state"] in ("COMMITTED", "REFUSED"), view
            assert view["state"] == "COMMITTED" or len(view["reason"]) > 20, view
            outcomes[path.stem] = view["state"]
            for body in (b"[1, 2, 3]", b"\x89PNG", as_json({"inputs": []})):
                assert box.post(f"/models/{path.stem}/predict", body)[0] in (200, 400, 404, 415)
            assert box.post("/models/digits/predict", as_json([[0] * 8] * 8))[0] == 200
            assert box.process.poll() is None
        assert box.get("/healthz")["status"] in ("ok", "degraded")
        assert resident_kb(box.process.pid) - before < MAX_RESIDENT_GROWTH_KB
    assert outcomes["person_detect_int8"] == "REFUSED"
    assert outcomes["gen_truncated_last_byte"] == "REFUSED"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
