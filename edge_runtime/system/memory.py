"""How much memory there is and this process holds; what it does not need any more is given back to the system."""

import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

# Linux, madvise(2). For a mapping of a file that is only read: its pages come back from the file when they are touched.
_MADV_DONTNEED = 4
# The other half is for this process itself, requests on their way, and the rest of the box.
_DEFAULT_SHARE = 2
_CGROUPS = Path("/sys/fs/cgroup")


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


def resident_bytes() -> int:
    """Resident memory of this process (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes(own: Path = Path("/proc/self/cgroup"), cgroups: Path = _CGROUPS) -> int:
    """The RAM of this box, or less where a control group (systemd's MemoryMax=, a container) allows less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
        (path,) = (line.removeprefix("0::/") for line in lines if line.startswith("0::/"))  # cgroup v2 only
        folder = cgroups / path
        for group in (folder, *folder.parents):
            if not group.is_relative_to(cgroups):
                break
            limits += _limit(group / "memory.max")
    except (OSError, ValueError):
        pass
    return min(limits)


def budget_bytes(configured: int | None) -> int:
    """Of all models together: as configured, or half of what is available; 0: no limit."""
    return available_bytes() // _DEFAULT_SHARE if configured is None else configured


def _limit(file: Path) -> list[int]:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return []
    return [int(text)] if text.isdecimal() else []


def give_back() -> None:
    """Return what has been freed to the system: glibc keeps most of an unloaded model otherwise (malloc_trim(3))."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none, and keeps little
    if trim is not None:
        trim(0)
