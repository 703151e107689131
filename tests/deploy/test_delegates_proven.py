"""Which delegate a model gets: what the probe saw in its child decides, and nothing else loads a library first."""

import shutil
from pathlib import Path
from typing import Any

import delegates as test_delegate
import pytest
from benches import Bench, on_bench
from bundles import digits

from edge_runtime.config import EngineConfig
from edge_runtime.deploy import catalog
from edge_runtime.deploy.deployer import Progress
from edge_runtime.deploy.store import State


def settings(library: str, fallback: Any = "cpu", **options: str) -> EngineConfig:
    """One interpreter and a delegate."""
    return EngineConfig(instances=1, delegate=library, delegate_options=options, delegate_fallback=fallback)


def deployed(folder: Path, engine: EngineConfig) -> tuple[Progress, str]:
    """How a push of the example ended with these settings, and what it then runs on."""
    folder.mkdir(exist_ok=True)
    seen: list[tuple[Progress, str]] = []

    async def go(bench: Bench) -> None:
        progress = await bench.push(digits())
        shown = catalog.models(bench.registry, bench.store)
        if shown:
            assert await bench.ask() == "1.0.0"
        seen.append((progress, shown[0]["runs_on"] if shown else ""))

    on_bench(folder, go, engine=engine)
    return seen[0]


def test_a_delegate_that_does_well_is_used(tmp_path: Path) -> None:
    """And /models says what it took."""
    progress, runs_on = deployed(tmp_path, settings(test_delegate.built()))
    assert progress.state is State.COMMITTED
    assert runs_on.startswith("libtestdelegate.so (0 of ")


@pytest.mark.parametrize(
    ("library", "options", "reason"),
    [
        ("libabsent.so.1", {}, "the delegate libabsent.so.1 cannot be loaded"),
        ("libc.so.6", {}, "libc.so.6 is no TFLite delegate"),
        ("", {"fail": "no stick"}, "refuses to start: no stick"),
        ("", {"crash": "create"}, "the engine died with SIGSEGV"),
        ("", {"crash": "invoke", "take": "1000"}, "the engine died with SIGSEGV"),
        ("", {"take": "1000"}, "not faithful to the golden vectors"),
        ("npu", {}, "npu"),
    ],
)
def test_what_does_not_do_well_falls_back_or_is_refused(
    tmp_path: Path, library: str, options: dict[str, str], reason: str
) -> None:
    """Absent, broken, crashing or wrong: the model runs on the CPU with the reason beside it, or not at all."""
    library = library or test_delegate.built()
    progress, runs_on = deployed(tmp_path / "cpu", settings(library, **options))
    assert progress.state is State.COMMITTED
    assert runs_on.startswith("cpu (fallback: ")
    assert reason in runs_on
    progress, runs_on = deployed(tmp_path / "refuse", settings(library, "refuse", **options))
    assert (progress.state, runs_on) == (State.REFUSED, "")
    assert reason in progress.reason


def at_boot(folder: Path, engine: EngineConfig) -> str:
    """What the committed model runs on after a restart with these settings."""
    shown: list[str] = []

    async def go(bench: Bench) -> None:
        await bench.deployer.recover()
        shown.extend(model["runs_on"] for model in catalog.models(bench.registry, bench.store))

    on_bench(folder, go, engine=engine)
    (runs_on,) = shown
    return runs_on


def test_hardware_comes_and_goes_between_two_starts(tmp_path: Path) -> None:
    """Each start proves the model anew, in a child: a driver that crashes now does not take the daemon."""
    library = tmp_path / "libstick.so"
    shutil.copy(test_delegate.built(), library)
    state, config = tmp_path / "state", settings(str(library))
    assert deployed(state, config)[1].startswith("libstick.so (0 of")
    library.rename(tmp_path / "elsewhere")
    assert at_boot(state, config).startswith("cpu (fallback: the delegate")
    (tmp_path / "elsewhere").rename(library)
    assert at_boot(state, config).startswith("libstick.so")
    assert "SIGSEGV" in at_boot(state, settings(str(library), crash="create"))
    assert at_boot(state, EngineConfig(instances=1)) == "cpu"
