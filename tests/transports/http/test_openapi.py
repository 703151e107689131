"""What `/openapi.json` says is what the box does; and it does what the official document says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import RunningBox, running_box
from bundles import digits
from peers import absent, require_library

from edge_runtime.transports.http.management import Management

# Only the model knows whether a request of the right form can be answered: names, shapes, what the bytes mean.
UP_TO_THE_MODEL = (
    "POST /models/{model}/predict",
    "POST /v1/models/{model}:predict",
    "POST /v1/models/{model}/versions/{version}:predict",
    "POST /v2/models/{model}/infer",
    "POST /v2/models/{model}/versions/{version}/infer",
    "POST /uploads",
    "PATCH /uploads/{id}",
)
# Where a success would take away what the others need, or keeps the box busy.
UPON_NOTHING = (
    "DELETE /models/{model}",
    "POST /v2/repository/models/{model}/unload",
    "POST /models/{model}/tune",
)

CONFIG = """
[dictionaries.models]
values = ["digits"]
[dictionaries.versions]
values = ["1.0.0", "1"]
[parameters]
"path.model" = { dictionary = "models", probability = 0.9 }
"path.model_name" = { dictionary = "models", probability = 0.9 }
"path.MODEL_NAME" = { dictionary = "models", probability = 0.9 }
"path.version" = { dictionary = "versions", probability = 0.9 }
"path.model_version" = { dictionary = "versions", probability = 0.9 }
"path.MODEL_VERSION" = { dictionary = "versions", probability = 0.9 }
"""
HOOKS = """
import schemathesis
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBox]:
    """A daemon with the digits model."""
    with running_box(tmp_path_factory.mktemp("openapi"), "deploy.max_uploads=1000") as running:
        assert running.push(digits())["state"] == "COMMITTED"
        yield running


def config() -> str:
    """Schemathesis's configuration: which models there are, and which answers a valid request may have."""
    accepted = '["2xx", "400", "401", "403", "404", "409", "413", "415", "422", "429", "5xx"]'
    text = CONFIG
    for name in UP_TO_THE_MODEL:
        text += f'\n[[operations]]\ninclude-name = "{name}"\n[operations.checks.positive_data_acceptance]\n'
        text += f"expected-statuses = {accepted}\n"
    for name in UPON_NOTHING:
        text += f'\n[[operations]]\ninclude-name = "{name}"\nparameters = {{ "path.model" = "gone" }}\n'
    return text


def schemathesis(folder: Path, *arguments: str) -> None:
    """Run it with all checks; fail with its report."""
    require_library("schemathesis", "schemathesis")
    (folder / "schemathesis.toml").write_text(config())
    (folder / "box_hooks.py").write_text(HOOKS)
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", *arguments]
    command += ["--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", "3", "--seed", "1"]
    command += ["--no-shrink", "--continue-on-failure", "--no-color"]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "box_hooks", "PYTHONPATH": str(folder)}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=170)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


@pytest.mark.timeout(180)
def test_schemathesis_finds_no_difference(box: RunningBox, tmp_path: Path) -> None:
    """Every operation, with data as documented and not: statuses, bodies, headers, methods."""
    schemathesis(tmp_path, f"{box.url}/openapi.json")
    assert "failed unexpectedly" not in box.log


@pytest.mark.timeout(180)
def test_the_official_documents_of_the_protocol_are_kept(box: RunningBox, tmp_path: Path) -> None:
    """Those in EDGE_RUNTIME_OIP_OPENAPI; they leave most error statuses out, and which tensors a model takes."""
    files = os.environ.get("EDGE_RUNTIME_OIP_OPENAPI", "")
    if not files:
        absent("EDGE_RUNTIME_OIP_OPENAPI does not name the protocol's OpenAPI documents (.ci/run gets them)")
    for file in files.split(":"):
        document = tmp_path / Path(file).name
        document.write_text(repaired(Path(file).read_text()))
        without = ("status_code_conformance", "positive_data_acceptance")
        schemathesis(tmp_path, str(document), "--url", box.url, "--exclude-checks", ",".join(without), *NOT_OURS)


# Large language models' calls, which some documents have beside the protocol's.
NOT_OURS = ("--exclude-path-regex", "/(generate|generate_stream|infer_stream)$")


def repaired(text: str) -> str:
    """What is no OpenAPI in them: a type that there is not, and a `$` in front of a path's parameters."""
    return text.replace('"bytes"', '"string"').replace("${", "{")


def test_every_endpoint_is_in_the_document(box: RunningBox) -> None:
    """Nothing is served that is not said."""
    paths: dict[str, dict[str, Any]] = box.get("/openapi.json")["paths"]
    nothing: Any = None
    for endpoint in Management(nothing, nothing, nothing, nothing, nothing)._endpoints:
        for method in set(endpoint.methods or ()) - ({"HEAD"} if "GET" in (endpoint.methods or ()) else set()):
            assert method.lower() in paths[endpoint.path], (method, endpoint.path)
    assert box.get("/")["paths"][-1] == "/openapi.json"
    assert len(json.dumps(paths)) < 200_000
