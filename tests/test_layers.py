"""The house: who may import whom, read from the code itself; see docs/adr/0001."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import ROOT

# Lowest first. A room may import itself and what stands below it; rooms in one row never import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("edge_runtime.contract",),
    ("edge_runtime.errors",),
    ("edge_runtime.config_ranges",),
    ("edge_runtime.config_engine", "edge_runtime.config_sensors"),
    ("edge_runtime.config", "edge_runtime.events", "edge_runtime.health", "edge_runtime.system"),
    ("edge_runtime.inference",),
    ("edge_runtime.sensors", "edge_runtime.deploy"),
    ("edge_runtime.transports",),
    ("edge_runtime.app",),
    ("edge_runtime.cli.tune",),
    ("edge_runtime.cli.daemon",),
)
COMMANDS_ON_THE_BOX = LAYERS[-2:]
TRANSPORTS = (
    "edge_runtime.transports.grpc",
    "edge_runtime.transports.http",
    "edge_runtime.transports.mdns",
    "edge_runtime.transports.mqtt",
    "edge_runtime.transports.otlp",
)
OPERATOR = ("edge_runtime.client", "edge_runtime.cli")
DEVICE_STACK = (
    "numpy",
    "uvicorn",
    "hpack",
    "starlette",
    "paho",
    "zeroconf",
    "serial",
    "ai_edge_litert",
    "tflite_runtime",
    "PIL",
)
HOST_LIBRARIES = ("litert_quantizer", "tensorflow", "scipy", "sklearn", "torch", "converters")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of ours with its file."""
    for package in ("edge_runtime", "converters"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(source: str) -> set[str]:
    """Every module that a source imports, anywhere in it; `from a import b` counts as a.b, which may be a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(module: str, room: str) -> bool:
    """Whether a module is in a room."""
    return module == room or module.startswith(room + ".")


def layer_of(module: str) -> tuple[int, str] | None:
    """The number and the name of the room that a module is in."""
    for number, rooms in enumerate(LAYERS):
        for room in rooms:
            if within(module, room):
                return number, room
    return None


def violation(importer: str, imported: str) -> str | None:
    """What rule `importer` breaks by importing `imported`, or None."""
    if within(importer, "converters"):
        allowed = not within(imported, "edge_runtime") or within(imported, "edge_runtime.contract")
        return None if allowed or imported == "edge_runtime.__version__" else "converters import the contract only"
    if any(within(imported, library) for library in HOST_LIBRARIES):
        return "the device never imports a host library"
    on_the_box = any(within(importer, room) for (room,) in COMMANDS_ON_THE_BOX)
    operator = any(within(importer, room) for room in OPERATOR) and not on_the_box
    if operator and within(imported, "edge_runtime"):
        free = (*OPERATOR, "edge_runtime.contract", "edge_runtime.__version__")
        return (
            None if any(within(imported, room) for room in free) else "edgectl and the client import the contract only"
        )
    return _transport_violation(importer, imported) or _layer_violation(importer, imported)


def _transport_violation(importer: str, imported: str) -> str | None:
    mine = next((room for room in TRANSPORTS if within(importer, room)), None)
    other = next((room for room in TRANSPORTS if within(imported, room)), None)
    return "transports never import each other" if mine and other and mine != other else None


def _layer_violation(importer: str, imported: str) -> str | None:
    mine, other = layer_of(importer), layer_of(imported)
    if mine is None or other is None or mine[1] == other[1] or other[0] < mine[0]:
        return None
    return f"{mine[1]} may not import {other[1]}"


def test_no_module_imports_what_its_room_may_not() -> None:
    """Every import in the code keeps to the layers."""
    broken = [
        f"{module} imports {imported}: {rule}"
        for module, path in modules()
        for imported in sorted(imports(path.read_text()))
        if (rule := violation(module, imported))
    ]
    assert not broken, "\n".join(broken)


def test_every_module_is_in_a_room() -> None:
    """A new folder must be given its place here."""
    homeless = [
        module
        for module, _ in modules()
        if not within(module, "converters")
        and layer_of(module) is None
        and module != "edge_runtime"
        and not any(within(module, room) for room in OPERATOR)
    ]
    assert not homeless


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("edge_runtime.contract.names", "edge_runtime.errors"),
        ("edge_runtime.errors", "edge_runtime.events"),
        ("edge_runtime.inference.service", "edge_runtime.deploy.store"),
        ("edge_runtime.sensors.pipeline", "edge_runtime.deploy.store"),
        ("edge_runtime.deploy.trust", "edge_runtime.transports.codec"),
        ("edge_runtime.transports.mqtt.link", "edge_runtime.transports.http.app"),
        ("edge_runtime.transports.grpc.calls", "edge_runtime.transports.http.dataplane"),
        ("edge_runtime.transports.mdns", "edge_runtime.app.serve"),
        ("edge_runtime.client.box", "edge_runtime.config.Config"),
        ("edge_runtime.cli.edgectl", "edge_runtime.inference.service"),
        ("edge_runtime.app", "converters.pipeline"),
        ("edge_runtime.inference.engine", "litert_quantizer.quantizer"),
        ("converters.pipeline", "edge_runtime.inference.engine"),
    ],
)
def test_a_forbidden_import_would_be_found(importer: str, imported: str) -> None:
    """The rules above are rules: each kind of forbidden import is one they name."""
    assert violation(importer, imported)


@pytest.mark.parametrize(
    "statement", ["import edge_runtime.contract", "from edge_runtime.cli import edgectl; edgectl.parser()"]
)
def test_the_contract_and_edgectl_load_no_device_stack(statement: str) -> None:
    """`import edge_runtime.contract` and `edgectl --help` stay light on a host."""
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not set(loaded) & set(DEVICE_STACK)


def test_the_daemon_loads_no_host_library() -> None:
    """Everything that `edge-runtime serve` imports can be installed on a device."""
    code = "import sys; import edge_runtime.app; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not set(loaded) & set(HOST_LIBRARIES)
