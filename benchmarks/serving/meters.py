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
    """What the tree holds, in MB of a million bytes: its processes' own pages, and the most that one of them shares.

    Not the proportional set size: that falls when somebody else on the machine runs the same libraries.
    """
    rollups = [Path(f"/proc/{pid}/smaps_rollup") for pid in tree(root)]
    own = sum(_kilobytes(path, "Private_") for path in rollups)
    shared = max((_kilobytes(path, "Shared_") for path in rollups), default=0)
    return (own + shared) * 1024 / 1e6


def resident_mb(root: int) -> float:
    """Resident set size of the one process, in MB."""
    return _kilobytes(Path(f"/proc/{root}/status"), "VmRSS:") * 1024 / 1e6


def _kilobytes(path: Path, key: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(key) and "Hugetlb" not in line)


class Disturbance:
    """How much of the machine's processor time went to others than this process and what it has started."""

    def __init__(self) -> None:
        self._machine, self._own = _machine_seconds(), _own_seconds()

    def shares(self) -> tuple[float, float]:
        """Since the start, of all cores together: the share of other processes here, and what the host withheld."""
        machine, own = _machine_seconds(), _own_seconds() - self._own
        busy, stolen, total = (now - then for now, then in zip(machine, self._machine, strict=True))
        return max(0.0, busy - own) / total, stolen / total


def _machine_seconds() -> tuple[float, float, float]:
    """Busy, stolen and all time, from proc(5) stat: user nice system idle iowait irq softirq steal."""
    values = [int(text) / _TICK for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(values) - values[3] - values[4] - values[7], values[7], sum(values)


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


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
