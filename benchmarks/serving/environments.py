"""An environment of its own for each peer, kept in `.bench/` inside the checkout between runs."""

import shutil
import subprocess
import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".bench"

PACKAGES = {
    "triton": ("nvidia-pytriton", "ai-edge-litert"),
    "mlserver": ("mlserver", "ai-edge-litert"),
    "litserve": ("litserve", "ai-edge-litert"),
    "flask": ("flask", "ai-edge-litert"),
    "plot": ("matplotlib",),
}


def python_of(name: str) -> Path:
    """The interpreter of that environment, which is built where it is absent.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed.
    """
    folder = CACHE / name
    interpreter, done = folder / "bin" / "python", folder / ".installed"
    wanted = " ".join(PACKAGES[name])
    if not done.exists() or done.read_text() != wanted:
        print(f"building {folder.relative_to(CACHE.parent)} ({wanted})", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = (str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run([*pip, *PACKAGES[name]], check=True)
        done.write_text(wanted)
    return interpreter


# What is compared: which distribution's version is named in the results.
_SERVERS = {
    "triton": ("nvidia-pytriton", "ai-edge-litert"),
    "mlserver": ("mlserver",),
    "litserve": ("litserve",),
    "flask": ("flask", "werkzeug"),
}


def versions(names: Collection[str]) -> dict[str, str]:
    """Versions of the engine here and of those peers, by distribution."""
    result = {name: metadata.version(name) for name in ("ai-edge-litert", "numpy", "uvicorn")}
    code = "import importlib.metadata as m, sys; print('\\n'.join(m.version(name) for name in sys.argv[1:]))"
    for name, packages in _SERVERS.items():
        if name in names:
            command = [str(python_of(name)), "-c", code, *packages]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            result |= {
                package if package not in result else f"{package} ({name})": version
                for package, version in zip(packages, found, strict=True)
            }
    return result


def require_wrk() -> str:
    """Path of wrk; ends the program with what to do where it is absent."""
    path = shutil.which("wrk")
    if path is None:
        sys.exit("wrk is not installed: apt-get install wrk (or https://github.com/wg/wrk), then run again")
    return path
