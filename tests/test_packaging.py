"""What `pip install edge-runtime` asks for on each kind of box, read from pyproject.toml."""

import tomllib
from itertools import product

import pytest
from packaging.requirements import Requirement
from peers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# PyPI has no wheel of these for 32-bit ARM; each has a fallback or a clear error (docs/adr/0003). numpy has none
# either, but nothing runs without it: there it comes from the distribution.
NO_ARMV7_WHEEL = {"ai-edge-litert", "msgspec", "httptools", "uvloop", "pillow"}


def requirements(machine: str, python: str) -> dict[str, Requirement]:
    """What is installed on such a box, by name."""
    environment = {"platform_machine": machine, "python_version": python, "sys_platform": "linux"}
    wanted = map(Requirement, PROJECT["dependencies"])
    return {r.name: r for r in wanted if r.marker is None or r.marker.evaluate(environment)}


@pytest.mark.parametrize(("machine", "python"), list(product(("x86_64", "aarch64"), ("3.11", "3.12", "3.13", "3.14"))))
def test_64_bit_boxes_get_litert_and_the_quick_parts(machine: str, python: str) -> None:
    """On every Python that we support."""
    found = requirements(machine, python)
    assert found.keys() >= NO_ARMV7_WHEEL
    assert "tflite-runtime" not in found
    assert "2.4.0" in found["numpy"].specifier


def test_32_bit_arm_gets_tflite_runtime_and_nothing_that_has_no_wheel() -> None:
    """tflite-runtime's last wheels are for Python 3.11 and numpy 1; Debian 12 has exactly these."""
    found = requirements("armv7l", "3.11")
    assert "tflite-runtime" in found
    assert not NO_ARMV7_WHEEL & found.keys()
    assert "1.24.2" in found["numpy"].specifier
    assert "2.0.0" not in found["numpy"].specifier


def test_the_device_install_has_no_host_library_and_no_heavy_framework() -> None:
    """Anything heavy is an extra."""
    heavy = {"litert-quantizer", "tensorflow", "torch", "scipy", "scikit-learn", "grpcio", "amqtt", "pandas"}
    assert not heavy & requirements("x86_64", "3.13").keys()


def test_every_extra_of_the_design_is_there() -> None:
    """Names that people type."""
    assert PROJECT["optional-dependencies"].keys() >= {"convert", "grpc", "tflite-runtime", "broker", "dev"}
    assert PROJECT["scripts"].keys() == {"edge-runtime", "edgectl", "edge-convert"}


def test_every_test_file_has_a_name_of_its_own() -> None:
    """Folders of tests are no packages: of two files of one name, pytest would import the first one twice."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
