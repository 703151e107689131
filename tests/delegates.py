"""A real external delegate for tests, compiled once: what it does is told by its options (data/delegate.c)."""

import functools
import subprocess
import tempfile
from pathlib import Path

from peers import require_peer

SOURCE = Path(__file__).parent / "data" / "delegate.c"


def built() -> str:
    """Path of the library; without a C compiler the test is skipped."""
    return _built(require_peer("gcc"))


@functools.cache
def _built(compiler: str) -> str:
    folder = tempfile.mkdtemp(prefix="delegate-")
    library = Path(folder) / "libtestdelegate.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True, timeout=60)
    return str(library)
