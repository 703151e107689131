"""Runs a foreign .tflite once in a child process: a broken file may kill the process that loads it.

python -m converters.probe FILE
"""

import resource
import subprocess
import sys
from pathlib import Path

from converters.engine import Model
from converters.errors import ConvertError

MEMORY_BYTES = 16 << 30
TIMEOUT_SECONDS = 120.0
_REFUSED = 3


def check(path: Path) -> None:
    """Raise ConvertError if the engine refuses the file at `path`, or dies or hangs on it."""
    command = [sys.executable, "-m", "converters.probe", str(path)]
    try:
        child = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)  # noqa: S603 - our own module
    except subprocess.TimeoutExpired as error:
        raise ConvertError(f"{path}: one run takes more than {TIMEOUT_SECONDS:g} s; nothing was converted") from error
    if child.returncode == 0:
        return
    if child.returncode == _REFUSED:
        raise ConvertError(f"{path}: {child.stdout.decode(errors='replace').strip()}")
    end = f"signal {-child.returncode}" if child.returncode < 0 else f"exit {child.returncode}"
    raise ConvertError(f"{path}: not a usable model: it killed the engine that loaded it ({end})")


def main(path: str) -> int:
    """Load and run once on zeros; says on stdout why not."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        Model(Path(path).read_bytes()).output_shapes()
    except (ConvertError, MemoryError) as error:
        print(error or "out of memory")  # noqa: T201 - the answer to the parent
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
