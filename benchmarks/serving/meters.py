"""What a server costs, read from /proc: memory and processor time of its whole process tree."""

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def tree(root: int) -> set[int]:
    """The process, its descendants, and whatever else is in its session."""
    parents, members = {}, {root}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # proc(5): the name, in parentheses, may hold anything; after it: state, parent, group, session.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            if int(fields[3]) == root:
                members.add(int(entry.name))
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    return members


def memory_mb(root: int) -> float:
    """Proportional set size of the tree, in MB of a million bytes: memory shared by its processes counts once."""
    total = 0
    for pid in tree(root):
        total += _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")
    return total * 1024 / 1e6


def resident_mb(root: int) -> float:
    """Resident set size of the one process, in MB."""
    return _kilobytes(Path(f"/proc/{root}/status"), "VmRSS:") * 1024 / 1e6


def _kilobytes(path: Path, key: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(key))


def cpu_seconds(root: int) -> float:
    """Processor time that the tree has taken so far."""
    ticks = 0
    for pid in tree(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK
