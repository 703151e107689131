"""The unit under a real systemd: ready, killed, hung, stopped."""

import json
import re
from collections.abc import Iterator

import pytest
from booted_box import PREFIX, SENSOR, Box, booted
from peers import ROOT

MODEL = ROOT / "examples/digits/digits_float.tflite"

pytestmark = [pytest.mark.nspawn, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One boot for all tests."""
    with booted(tmp_path_factory.mktemp("box")) as box:
        yield box


@pytest.fixture
def box(machine: Box) -> Box:
    """The box with the daemon running. `start` returns once READY=1 was sent: the unit is Type=notify."""
    machine.run("systemctl", "start", "edge-runtime")
    return machine


def served(box: Box) -> list[str]:
    """Names of the models that the daemon answers with."""
    answer = box.run("curl", "-sS", "-m", "10", "http://127.0.0.1:8700/models")
    return [model["name"] for model in json.loads(answer)["models"]]


def infer(box: Box) -> object:
    """The answer of the model to an empty picture, through the engine."""
    zeros = json.dumps([[[[0.0]] * 8] * 8])
    url = "http://127.0.0.1:8700/models/digits/predict"
    header = "content-type: application/json"
    return json.loads(box.run("curl", "-sS", "-m", "20", "-H", header, "-d", zeros, url)).get("result")


def test_start_waits_until_it_is_ready(box: Box) -> None:
    """When systemctl start returns, the daemon answers, and says in its status what it does."""
    assert box.show("ActiveState") == "active"
    assert "nspawn on port 8700" in box.show("StatusText")
    assert json.loads(box.run("curl", "-sS", "-m", "10", "http://127.0.0.1:8700/healthz"))["device"] == "nspawn"


def test_it_is_not_root_and_confined(box: Box) -> None:
    """The process has a user of its own, the serial group, no capabilities, and a seccomp filter."""
    status = dict(
        re.findall(r"^(\w+):\s*(.*)$", box.run("cat", f"/proc/{box.show('MainPID')}/status"), flags=re.MULTILINE)
    )
    dialout = box.run("getent", "group", "dialout").split(":")[2]
    assert "0" not in status["Uid"].split()
    assert dialout in status["Groups"].split()
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_a_model_is_proved_and_runs_in_the_sandbox(box: Box) -> None:
    """Upload, probe in a child process, load and inference live with the unit's restrictions."""
    model = f"{PREFIX}/checkout/{MODEL.relative_to(ROOT)}"
    push = ("--name", "digits", "--version", "1.0.0", "--to", "127.0.0.1:8700")
    box.run(f"{PREFIX}/bin/edgectl", "push", model, *push)
    assert served(box) == ["digits"]
    assert infer(box) is not None
    assert "Operation not permitted" not in box.journal()


def test_a_serial_sensor_is_read_through_the_group_dialout(box: Box) -> None:
    """A port that appears while the daemon runs is opened by it without root, and its readings are answered."""

    def sensor() -> dict[str, object]:
        health = json.loads(box.run("curl", "-sS", "-m", "10", "http://127.0.0.1:8700/healthz"))
        return dict(health["pipelines"]["bench"])

    assert sensor()["state"] == "waiting for port"
    box.run("systemd-run", "-q", "--unit=sensor", f"{PREFIX}/bin/python3", "-c", SENSOR)
    box.until(lambda: sensor()["results"], "a result of the sensor")
    box.run("systemctl", "stop", "sensor")
    box.until(lambda: sensor()["state"] == "lost", "the loss is noticed")


def test_a_killed_daemon_is_back_with_its_models(box: Box) -> None:
    """After SIGKILL systemd starts it again, and what was committed is served."""
    pid, before = box.show("MainPID"), served(box)
    box.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "edge-runtime")
    box.until(lambda: box.show("MainPID") not in (pid, "0") and box.show("ActiveState") == "active", "restarted")
    assert served(box) == before == ["digits"]
    assert int(box.show("NRestarts")) >= 1


def test_a_hung_daemon_is_killed_by_the_watchdog(box: Box) -> None:
    """A daemon that does not feed the watchdog any more is ended and started again."""
    pid = box.show("MainPID")
    box.run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "edge-runtime")
    box.until(lambda: box.show("MainPID") not in (pid, "0") and box.show("ActiveState") == "active", "restarted")
    assert re.search(r"[Ww]atchdog timeout", box.journal())


def test_it_lives_on_while_the_watchdog_is_fed(box: Box) -> None:
    """Longer than the watchdog's interval it is the same process, without a restart."""
    fed, pid = box.show("WatchdogTimestampMonotonic"), box.show("MainPID")
    box.until(lambda: int(box.show("WatchdogTimestampMonotonic")) > int(fed) + 6_000_000, "fed for 6 s", 20)
    assert box.show("MainPID") == pid


def test_stop_is_clean(box: Box) -> None:
    """`systemctl stop` ends it by itself, with status 0, and the state stays where it belongs to nobody else."""
    box.run("systemctl", "stop", "edge-runtime")
    assert (box.show("ActiveState"), box.show("Result"), box.show("ExecMainStatus")) == ("inactive", "success", "0")
    assert "stopped" in box.journal()
    assert box.run("stat", "-c", "%a", "/var/lib/private/edge-runtime") == "750"
