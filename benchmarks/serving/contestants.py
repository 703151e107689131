"""How each server is started with the models, as its own documentation says."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import questions
from benchmarks.serving.environments import CACHE, python_of
from benchmarks.serving.load import Load, pinned

_PEERS = Path(__file__).with_name("peers")
_START_SECONDS = 120.0
_OIP = "/v2/models/{model}/infer"


@dataclass(frozen=True)
class Server:
    """A server that is ready.

    Attributes:
        path: of an inference request, with `{model}` in it.
        encode: from a tensor to its JSON request.
    """

    name: str
    process: "subprocess.Popen[bytes]"
    port: int
    grpc_port: int = 0
    path: str = _OIP
    encode: questions.Encoder = questions.oip_json

    def url(self, model: str) -> str:
        """Where the model is asked."""
        return f"http://127.0.0.1:{self.port}" + self.path.format(model=model)


def free_port() -> int:
    """A TCP port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ours(
    models: Mapping[str, Path], folder: Path, cores: Sequence[int], settings: Sequence[str] = ()
) -> Iterator[Server]:
    """`edge-runtime serve`, models pushed with edgectl; `settings` are further KEY=VALUE."""
    port, grpc_port = free_port(), free_port()
    with running("ours", serve_command(folder, port, grpc_port, settings), folder, cores) as process:
        wait_ready(process, port, "/v2/health/ready")
        for name, path in models.items():
            push(port, name, path)
        yield Server("ours", process, port, grpc_port)


def serve_command(folder: Path, port: int, grpc_port: int, settings: Sequence[str] = ()) -> list[str]:
    """What starts the daemon with its state in `folder`."""
    base = [
        *("device.name=bench", f"device.state_dir={folder / 'state'}", "http.host=127.0.0.1", f"http.port={port}"),
        *(f"grpc.port={grpc_port}", "discovery.mdns=false"),
        *("trust.require_signature=false", "deploy.trial_seconds=0.1"),
    ]
    options = [word for setting in (*base, *settings) for word in ("--set", setting)]
    return [sys.executable, "-m", "edge_runtime.cli.daemon", "serve", *options]


def push(port: int, name: str, path: Path, version: str = "1.0.0") -> None:
    """Send a model with edgectl."""
    command = [sys.executable, "-m", "edge_runtime.cli.edgectl", "push", str(path), "--name", name]
    command += ["--version", version]
    subprocess.run([*command, "--to", f"127.0.0.1:{port}"], check=True, capture_output=True)


@contextmanager
def triton(models: Mapping[str, Path], folder: Path, cores: Sequence[int]) -> Iterator[Server]:
    """NVIDIA Triton with its Python backend, from the wheel of nvidia-pytriton; one instance a core."""
    python = python_of("triton")
    backends = _triton_backends(python)
    for name, path in models.items():
        _write_triton_model(folder / "models" / name, path, instances=max(1, len(cores)))
    ports = [free_port() for _ in range(2)]
    command = [
        *(str(backends.parent / "bin" / "tritonserver"), "--model-repository", str(folder / "models")),
        *("--backend-directory", str(backends), "--http-port", str(ports[0]), "--grpc-port", str(ports[1])),
        *("--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1", "--allow-metrics", "false"),
    ]
    # The stub embeds Python: it finds the library by the first, and its packages by the python3 on the path.
    environment = {
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
        "PYTHONHOME": sys.base_prefix,
        "PATH": f"{python.parent}:/usr/bin:/bin",
    }
    with running("triton", command, folder, cores, environment) as process:
        wait_ready(process, ports[0], "/v2/health/ready")
        yield Server("triton", process, *ports)


def _triton_backends(python: Path) -> Path:
    """The wheel's backends, with the stub of this Python where the server looks for it."""
    (server,) = python.parent.parent.glob("lib/python*/site-packages/pytriton/tritonserver")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise RuntimeError(f"its wheel has no Python backend for Python {version}; make bench with another one")
    target = server / "backends" / "python" / stub.name
    if not target.exists():  # it may be running still
        shutil.copy(stub, target)
    return server / "backends"


def _write_triton_model(folder: Path, model: Path, instances: int) -> None:
    source, result = questions.shapes(model)
    (folder / "1").mkdir(parents=True)
    shutil.copy(_PEERS / "triton_model.py", folder / "1" / "model.py")
    shutil.copy(model, folder / "1" / "model.tflite")
    (folder / "config.pbtxt").write_text(
        f'name: "{folder.name}"\nbackend: "python"\nmax_batch_size: 0\n'
        f'input [ {{ name: "x" data_type: TYPE_INT8 dims: {list(source)} }} ]\n'
        f'output [ {{ name: "y" data_type: TYPE_INT8 dims: {list(result)} }} ]\n'
        f"instance_group [ {{ count: {instances} kind: KIND_CPU }} ]\n"
    )


@contextmanager
def mlserver(models: Mapping[str, Path], folder: Path, cores: Sequence[int]) -> Iterator[Server]:
    """MLServer with a custom runtime in the server's own process, which was quicker than its worker processes."""
    ports = [free_port() for _ in range(3)]
    settings = {"host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2]}
    settings |= {"parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps(settings))
    for name, path in models.items():
        (folder / name).mkdir()
        shutil.copy(_PEERS / "mlserver_runtime.py", folder / name)
        described = {"name": name, "implementation": "mlserver_runtime.LiteRT", "parameters": {"uri": str(path)}}
        (folder / name / "model-settings.json").write_text(json.dumps(described))
    command = [str(python_of("mlserver").with_name("mlserver")), "start", str(folder)]
    with running("mlserver", command, folder, cores) as process:
        wait_ready(process, ports[0], "/v2/health/ready")
        yield Server("mlserver", process, *ports[:2])


@contextmanager
def litserve(models: Mapping[str, Path], folder: Path, cores: Sequence[int]) -> Iterator[Server]:
    """LitServe with one worker; it serves the first model only."""
    with _application("litserve", models, folder, cores, "/health") as server:
        yield server


@contextmanager
def flask(models: Mapping[str, Path], folder: Path, cores: Sequence[int]) -> Iterator[Server]:
    """Flask as tutorials write it; it serves the first model only."""
    with _application("flask", models, folder, cores, "/ready") as server:
        yield server


@contextmanager
def _application(
    name: str, models: Mapping[str, Path], folder: Path, cores: Sequence[int], health: str
) -> Iterator[Server]:
    port = free_port()
    model = str(next(iter(models.values())))
    command = [str(python_of(name)), str(_PEERS / f"{name}_app.py"), model, str(port)]
    with running(name, command, folder, cores) as process:
        wait_ready(process, port, health)
        yield Server(name, process, port, path="/predict", encode=questions.plain_json)


SERVERS = {"ours": ours, "triton": triton, "mlserver": mlserver, "litserve": litserve, "flask": flask}


def bare(model: Path, seconds: float, cores: Sequence[int]) -> Load:
    """The engine alone, one process on each of these cores."""
    command = [*pinned(cores), sys.executable, str(_PEERS / "bare.py"), str(model), str(seconds), str(len(cores))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return Load(per_second=float(output[0]), cpu_us=float(output[1]))


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    folder: Path,
    cores: Sequence[int],
    environment: Mapping[str, str] | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """The command in a session of its own, which ends with it."""
    log = folder / f"{name}.log"
    with (
        log.open("ab") as sink,
        subprocess.Popen(
            [*pinned(cores), *command],
            stdout=sink,
            stderr=sink,
            env=environment,
            cwd=folder if name != "ours" else CACHE.parent,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        except RuntimeError as error:
            raise RuntimeError(f"{name}: {error}\n{log.read_text(errors='replace')[-4000:]}") from error
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            with contextlib.suppress(ProcessLookupError):  # workers that a server has left behind
                os.killpg(process.pid, signal.SIGKILL)


def wait_ready(process: "subprocess.Popen[bytes]", port: int, path: str) -> None:
    """Return when `path` answers 200. Raises RuntimeError if it does not in time, or the process ended."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"ended with status {process.returncode} before it was ready")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise RuntimeError(f"not ready after {_START_SECONDS:.0f} s")
