"""Public names: topics, service type, paths, and the rules that names keep to."""

import re

from edge_runtime.contract.errors import ContractError

SERVICE_TYPE = "_edge-inference._tcp.local."
TXT_VERSION = "1"
API = "oip2"
HTTP_PORT = 8700
GRPC_PORT = 8701
BUNDLE_SUFFIX = ".edgemodel"

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,31}")
_DEVICE = re.compile(r"[^/+#\x00-\x1f\ud800-\udfff]{1,63}")


def check_model_name(name: str) -> str:
    """Return `name` if it may name a model (it becomes a path, a topic and a TXT value), else raise ContractError."""
    if not _MODEL.fullmatch(name):
        raise ContractError(
            f"model name {name!r} is not usable: 1 to 64 of letters, digits, '.', '_', '-', "
            "starting with a letter or digit"
        )
    return name


def check_version(version: str) -> str:
    """Return `version` if it may name a version, else raise ContractError."""
    if not _VERSION.fullmatch(version):
        raise ContractError(f"version {version!r} is not usable: 1 to 32 of letters, digits, '.', '+', '-'")
    return version


def check_device_name(name: str) -> str:
    """Return `name` if it may name a box (a topic level, and a DNS label of 63 bytes), else raise ContractError."""
    if not _DEVICE.fullmatch(name) or len(name.encode()) > 63:
        raise ContractError(
            f"device name {name!r} is not usable: 1 to 63 bytes without '/', '+', '#' or control characters"
        )
    return name


def sequence_of(version: str) -> int:
    """The sequence number that a version MAJOR.MINOR.PATCH stands for, so that no clock is needed to order releases.

    Raises:
        ContractError: the version is not three dotted numbers below 1,000,000.
    """
    parts = re.fullmatch(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})", version, re.ASCII)
    if not parts:
        raise ContractError(f"version {version!r} gives no sequence number: write it as MAJOR.MINOR.PATCH")
    major, minor, patch = (int(part) for part in parts.groups())
    return (major * 10**6 + minor) * 10**6 + patch


class Topics:
    """The MQTT topics of one box."""

    def __init__(self, prefix: str, device: str) -> None:
        self.base = f"{prefix}/{device}"
        self.status = f"{self.base}/status"
        self.info = f"{self.base}/info"
        self.models = f"{self.base}/models"
        self.events = f"{self.base}/events"
        self.infer_filter = f"{self.base}/infer/+"

    def results(self, model: str) -> str:
        """Where results of `model` go."""
        return f"{self.base}/results/{model}"

    def infer(self, model: str) -> str:
        """Where requests to `model` are sent."""
        return f"{self.base}/infer/{model}"
