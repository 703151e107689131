"""What the process does not need in memory, given back to the system."""

import ctypes
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

# Linux, madvise(2). For a mapping of a file that is only read: its pages come back from the file when they are touched.
_MADV_DONTNEED = 4


def release_file_pages(path: Path) -> int:
    """Let go of the pages that mappings of a file hold; returns the bytes of these mappings.

    An engine maps a model's file and copies the weights into its own layout: from then on the mapping is read by
    nobody, but counts as the daemon's memory. Only shared read-only mappings are touched. Elsewhere than on Linux, or
    where it cannot be done, nothing happens.
    """
    if sys.platform != "linux":
        return 0
    try:
        libc, released = ctypes.CDLL(None, use_errno=True), 0
        for start, end in _mappings(path):
            if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED) == 0:
                released += end - start
    except OSError as error:
        log.debug("pages of %s are kept: %s", path.name, error)
        return 0
    return released


def _mappings(path: Path) -> Iterator[tuple[int, int]]:
    """Addresses of the shared read-only mappings of a file (proc_pid_maps(5): range, permissions, ..., path)."""
    wanted = str(path.resolve())
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1] == "r--s" and fields[5] == wanted:
            start, _, end = fields[0].partition("-")
            yield int(start, 16), int(end, 16)
