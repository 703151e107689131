"""Where tests find the real programs and models they talk to, and what happens when one is absent."""

import contextlib
import importlib.util
import itertools
import os
import shutil
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def require_peer(name: str) -> str:
    """Path of the program `name`; without it the test is skipped, or fails where EDGE_RUNTIME_REQUIRE_PEERS=1."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        absent(f"{name} is not installed (apt-get install {name})")
    return path


def require_shared(relative: str) -> Path:
    """A real model or data file kept beside the checkout; the test is skipped where there is none."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"shared/{relative} is not beside this checkout")
    return path


def require_library(module: str, install: str) -> None:
    """Skip (or fail, where peers are required) unless `module` can be imported; `install` is what pip calls it."""
    if importlib.util.find_spec(module) is None:
        absent(f"{module} is not installed (pip install '{install}')")


def require_kserve() -> str:
    """The Python of an environment that has kserve, whose dependencies are too many and too particular for this one."""
    python = os.environ.get("EDGE_RUNTIME_KSERVE_PYTHON", "")
    if not python:
        absent("EDGE_RUNTIME_KSERVE_PYTHON names no Python that has kserve (pip install kserve, in a venv of its own)")
    return python


def require_root() -> None:
    """Skip (or fail, where peers are required) unless this is root."""
    if os.geteuid() != 0:
        absent("needs root")


def absent(reason: str) -> None:
    """Skip for `reason`, or fail where EDGE_RUNTIME_REQUIRE_PEERS=1 says that everything must be here."""
    if os.environ.get("EDGE_RUNTIME_REQUIRE_PEERS") == "1":
        pytest.fail(f"required here: {reason}")
    pytest.skip(reason, allow_module_level=True)


# Below the range from which the system gives ports to clients (32768 and up on Linux): one that is free now is still
# free when the program that it is for has started. Each process of a parallel run has a part of its own.
_PORTS = itertools.count(
    12_000 + 9_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 2) + os.getpid() % 4_000
)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that is free, and that no other call in this process returns."""
    for port in itertools.islice(_PORTS, 5_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")
