"""Models in worker processes: what a crash costs, and that nothing is left of it. The workers are real."""

import asyncio
import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import digits_content, digits_manifest
from numpy.typing import NDArray
from peers import require_shared

from edge_runtime.config import EngineConfig
from edge_runtime.errors import Code, ContentError, DeviceError, EdgeError
from edge_runtime.inference import engine as engines
from edge_runtime.inference import worker_process
from edge_runtime.inference.description import Description
from edge_runtime.inference.isolated import IsolatedEngine, IsolatedSession
from edge_runtime.inference.loader import Loader
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.selfcheck import SelfCheck
from edge_runtime.inference.shared_memory import Region
from edge_runtime.inference.worker_process import WorkerLostError

ENGINE = engines.choose()
PICTURE = {"image": np.zeros((1, 8, 8, 1), dtype=np.int8)}
MANY = EngineConfig(isolated_max_crashes=1000)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The example's int8 model as a file."""
    path = tmp_path / "digits.tflite"
    path.write_bytes(digits_content()["model.tflite"])
    return path


@pytest.fixture
def open_batch() -> Iterator[IsolatedSession]:
    """A model that takes any batch, and takes its time for a large one."""
    path = require_shared("models/micro/hello_world_float.tflite")
    opened = IsolatedEngine(ENGINE, MANY).open(path, "builtin", 1)
    yield opened
    opened.close()


def batch(session: IsolatedSession, size: int) -> dict[str, NDArray[Any]]:
    """Inputs for it."""
    return {session.inputs[0].name: np.linspace(0, 6, size, dtype=np.float32).reshape(size, 1)}


@pytest.fixture
def session(model: Path) -> Iterator[IsolatedSession]:
    """A model in a worker of its own that may crash as often as it likes."""
    opened = IsolatedEngine(ENGINE, MANY).open(model, "builtin", 1)
    yield opened
    opened.close()


def worker(session: IsolatedSession) -> int:
    """Its process id."""
    assert session.pid is not None
    return session.pid


def kill(session: IsolatedSession, number: signal.Signals = signal.SIGSEGV) -> int:
    """Send the worker a signal and wait until it is dead; returns its process id."""
    pid = worker(session)
    os.kill(pid, number)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def descriptors() -> set[str]:
    """What this process has open, but for the listing itself."""
    return {f"{p.name} {p.readlink()}" for p in Path("/proc/self/fd").iterdir() if p.exists()}


def children() -> set[int]:
    """Process ids of this process's children, dead ones too."""
    return {int(pid) for pid in Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()}


def test_a_worker_that_died_between_two_requests_costs_no_answer(session: IsolatedSession) -> None:
    """The next request has another one, and the same answer."""
    expected = session.run(PICTURE)["scores"]
    died = kill(session)
    np.testing.assert_array_equal(session.run(PICTURE)["scores"], expected)
    assert worker(session) != died


def in_the_middle(session: IsolatedSession, number: signal.Signals) -> tuple[int, Exception]:
    """Send the worker a signal while it runs a long batch; returns its process id and what its caller was told."""
    heard: list[Exception] = []
    tensors = batch(session, 1_000_000)

    def ask() -> None:
        try:
            session.run(tensors)
        except (ContentError, DeviceError) as error:
            heard.append(error)

    asked, asking = worker(session), threading.Thread(target=ask)
    link = session._worker._connection  # type: ignore[union-attr]
    before = Path(f"/proc/{asked}/stat").read_text().split()[13]
    asking.start()
    while Path(f"/proc/{asked}/stat").read_text().split()[13] == before or unread(link):
        assert asking.is_alive()
        time.sleep(0.001)
    os.kill(asked, number)
    asking.join()
    (error,) = heard
    return asked, error


def unread(link: socket.socket) -> int:
    """Bytes that the other side has not read yet (unix(7), SIOCOUTQ)."""
    return struct.unpack("i", fcntl.ioctl(link, termios.TIOCOUTQ, bytes(4)))[0]


@pytest.mark.parametrize(
    ("number", "family", "text"),
    [
        (signal.SIGSEGV, ContentError, "crashed with SIGSEGV while it ran"),
        (signal.SIGABRT, ContentError, "crashed with SIGABRT while it ran"),
        (signal.SIGKILL, DeviceError, "was killed by SIGKILL (the kernel was out of memory, or somebody did it) while"),
    ],
)
def test_a_crash_costs_its_answer_and_says_which(
    open_batch: IsolatedSession, number: signal.Signals, family: type[EdgeError], text: str
) -> None:
    """The caller is told at once what happened; the next request is answered."""
    pid, error = in_the_middle(open_batch, number)
    assert isinstance(error, family)
    assert (error.code, text in str(error)) == (Code.INTERNAL, True), error
    assert len(open_batch.run(batch(open_batch, 3))) == 1
    assert worker(open_batch) != pid


def test_a_worker_that_hangs_is_killed(model: Path) -> None:
    """At engine.isolated_max_seconds; stopped processes do nothing at all, which is as good as an endless loop."""
    session = IsolatedEngine(ENGINE, EngineConfig(isolated_max_seconds=0.3)).open(model, "builtin", 1)
    hung = worker(session)
    os.kill(hung, signal.SIGSTOP)
    with pytest.raises(ContentError, match=r"no answer within 0\.3 s while it ran and was killed") as told:
        session.run(PICTURE)
    assert told.value.code is Code.DEADLINE_EXCEEDED
    assert not Path(f"/proc/{hung}").exists()
    assert session.run(PICTURE)["scores"].shape == (1, 10)
    session.close()


def test_a_model_that_keeps_crashing_is_left_alone_for_a_while(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Then requests are answered at once, without a process; each crash is logged once."""
    config = EngineConfig(isolated_max_crashes=2, isolated_crash_window_seconds=20)
    engine = IsolatedEngine(ENGINE, config, "gearbox 1.0.0")
    session = engine.open(model, "builtin", 1)
    for _ in range(2):
        kill(session)
        with contextlib.suppress(ContentError):
            session.run(PICTURE)
    for _ in range(20):
        with pytest.raises(ContentError, match=r"keeps crashing \(2 times of late\); it is left alone") as told:
            session.run(PICTURE)
        assert told.value.code is Code.UNAVAILABLE
        assert session.pid is None
    assert engine.history.total == len([r for r in caplog.records if "SIGSEGV" in r.message]) == 2
    assert all(r.message.startswith("gearbox 1.0.0: ") for r in caplog.records if "SIGSEGV" in r.message)
    time.sleep(engine.history.pause_left(time.monotonic()))
    assert session.run(PICTURE)["scores"].shape == (1, 10)
    session.close()


def test_a_model_that_crashes_while_it_is_loaded_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried again and again: the load has failed."""
    monkeypatch.setattr(worker_process.sys, "executable", "/bin/false")
    with pytest.raises(ContentError, match="ended with status 1 while it was loaded"):
        IsolatedEngine(ENGINE, MANY).open(model, "builtin", 1)
    monkeypatch.setattr(worker_process.sys, "executable", "/does/not/exist")
    with pytest.raises(DeviceError, match="a worker process cannot be started"):
        IsolatedEngine(ENGINE, MANY).open(model, "builtin", 1)


def test_fifty_crashes_leave_nothing_behind(session: IsolatedSession) -> None:
    """No descriptor, no process, no memory that stays mapped; shared memory had no name to begin with."""

    def left() -> tuple[int, int, int]:
        its_maps = Path(f"/proc/{worker(session)}/maps").read_text()
        assert "/dev/shm" not in its_maps
        maps = Path("/proc/self/maps").read_text() + its_maps
        return len(descriptors()), len(children()), maps.count("memfd:")

    session.run(PICTURE)
    gc.collect()
    before = left()
    for i in range(50):
        kill(session, signal.SIGKILL if i % 2 else signal.SIGSEGV)
        if i % 10 == 0:
            session.run(PICTURE)
        else:
            session._replace(WorkerLostError(ContentError("")))  # without waiting for the new one to load
    session.run(PICTURE)
    gc.collect()
    assert left() == before
    session.close()
    assert len(children()) == before[1] - 1


def test_a_session_that_nobody_holds_ends_its_worker(model: Path) -> None:
    """A pool drops its sessions without a word."""
    session = IsolatedEngine(ENGINE, MANY).open(model, "builtin", 1)
    pid = worker(session)
    del session
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_sees_nothing_of_the_daemon(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its environment nor its files, those that are inheritable included; and its own limits are set."""
    monkeypatch.setenv("EDGE_RUNTIME_MQTT__PASSWORD", "hush")
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        session = IsolatedEngine(ENGINE, MANY).open(model, "builtin", 1)
        session.run(PICTURE)
        of = Path(f"/proc/{worker(session)}")
        assert b"hush" not in (of / "environ").read_bytes()
        opened = {str(p.readlink()) for p in (of / "fd").iterdir()} - {str(model)}
        assert {name.split(":")[0] for name in opened} == {"pipe", "socket", "/memfd"}, opened
    limits = {line[:26].strip(): line[26:].split()[:2] for line in (of / "limits").read_text().splitlines()}
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max address space"] == [str(MANY.isolated_memory_bytes)] * 2
    assert limits["Max file size"] == [str(worker_process.LOG_MAX_BYTES)] * 2
    assert int(limits["Max open files"][1]) <= 16
    session.close()


def test_a_worker_dies_with_its_daemon() -> None:
    """Also with one that is killed, and also when it hangs in the model or is stopped."""
    script = (
        "import sys, os, threading, numpy as np\n"
        "from pathlib import Path\n"
        "from edge_runtime.config import EngineConfig\n"
        "from edge_runtime.inference import engine\n"
        "from edge_runtime.inference.isolated import IsolatedEngine\n"
        "isolated = IsolatedEngine(engine.choose(), EngineConfig())\n"
        "idle, busy = (isolated.open(Path(sys.argv[1]), 'builtin', 1) for _ in range(2))\n"
        "print(idle.pid, busy.pid, flush=True)\n"
        "busy.run({busy.inputs[0].name: np.zeros((5_000_000, 1), np.float32)})\n"
    )
    model = require_shared("models/micro/hello_world_float.tflite")
    daemon = subprocess.Popen([sys.executable, "-c", script, str(model)], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    pids = [int(word) for word in daemon.stdout.readline().split()]
    ends = [os.pidfd_open(pid) for pid in pids]
    while Path(f"/proc/{pids[1]}/stat").read_text().split()[2] != "R":
        time.sleep(0.001)
    daemon.kill()
    daemon.wait()
    for end in ends:
        assert select.select([end], [], [], 5.0)[0], "a worker outlives its daemon"
        os.close(end)
    daemon.stdout.close()


def test_large_tensors_come_and_go(open_batch: IsolatedSession) -> None:
    """Memory for a large request is had for it alone; a wrong one costs a request, not the worker."""
    pid, (x,), (y,) = worker(open_batch), open_batch.inputs, open_batch.outputs
    for size in (3, 600_000, 5):
        inputs = batch(open_batch, size)
        np.testing.assert_allclose(open_batch.run(inputs)[y.name], np.sin(inputs[x.name]), atol=0.25)
    regions = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/memfd:tensors" in line]
    assert len(regions) == 2, regions
    assert {int(line.split("-")[1].split()[0], 16) - int(line.split("-")[0], 16) for line in regions} == {4096}
    for wrong in ({x.name: np.zeros((2, 1))}, {"z": np.zeros(1)}):
        with pytest.raises(ContentError, match="failed to run"):
            open_batch.run(wrong)
    assert open_batch.run(batch(open_batch, 2))[y.name].shape == (2, 1)
    assert worker(open_batch) == pid


def test_more_than_the_box_allows_is_refused_and_the_worker_lives(
    open_batch: IsolatedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """engine.max_batch_bytes bounds what goes into a worker, and what a worker may ask its daemon for."""
    pid, process = worker(open_batch), open_batch._worker
    monkeypatch.setattr(process, "_max_region_bytes", 100_000)
    refused = pytest.raises(DeviceError, match=r"bytes of tensors are more than engine\.max_batch_bytes")
    with refused:
        open_batch.run(batch(open_batch, 30_000))
    monkeypatch.setattr(process, "_fitting", Region.make)  # now the inputs may be as large as they like
    with refused:
        open_batch.run(batch(open_batch, 30_000))
    assert len(open_batch.run(batch(open_batch, 20_000))) == 1
    assert worker(open_batch) == pid


@pytest.mark.parametrize(
    ("isolation", "signed", "expected"),
    [("auto", True, "none"), ("auto", False, "process"), ("none", False, "none"), ("process", True, "process")],
)
def test_who_gets_a_worker(model: Path, isolation: Any, expected: str, *, signed: bool) -> None:
    """By the configuration; "auto" goes by the signature. One worker unless told otherwise, and never on the loop."""
    session = ENGINE.open(model, "builtin", 1)
    found = Description(
        "", "", "builtin", "classification", session.inputs, session.outputs, latency_ms=0.001, sample_bytes=1
    )
    loader = Loader(EngineConfig(isolation=isolation))
    served = loader.load(digits_manifest(), found, model, signed=signed)
    assert (served.placement.isolation, served.placement.crashes) == (expected, 0)
    assert (served.runner.run_now(PICTURE) is None) == (expected == "process")
    assert expected == "none" or served.runner.size == 1
    served.retire()


def test_a_model_in_a_worker_says_nothing_of_the_daemons_health(model: Path) -> None:
    """The watchdog must not restart a box because of a model that is kept apart from it."""
    session = ENGINE.open(model, "builtin", 1)
    found = Description("", "", "builtin", "classification", session.inputs, session.outputs, latency_ms=0.001)
    registry = Registry()
    registry.swap(Loader(EngineConfig(isolation="process")).load(digits_manifest(), found, model))
    registry.find("digits").runner.close()
    assert asyncio.run(SelfCheck(registry).run()) is None
    registry.close()
