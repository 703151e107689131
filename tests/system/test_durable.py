"""A file that is replaced is the old one or the new one, never half of one."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from peers import require_peer

from edge_runtime.system import durable

NEW = b"new" * 100_000
WRITE = """
import sys
from pathlib import Path
from edge_runtime.system import durable
with durable.replace(Path(sys.argv[1])) as file:
    file.write(b"new" * 100_000)
"""


def trace(target: Path, *options: str) -> tuple[int, str]:
    """Replace `target` in a child under strace; returns its exit status (negative: signal) and the calls it made."""
    calls = target.parent / "calls"
    command = [require_peer("strace"), "-f", "-o", str(calls), *options, sys.executable, "-c", WRITE, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr or not calls.exists():
        pytest.skip(f"strace may not trace here: {done.stderr[:200]}")
    return done.returncode, calls.read_text()


def descriptors() -> int:
    """How many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def leftovers(target: Path) -> list[str]:
    """What is in the folder beside the target and the trace."""
    return sorted(path.name for path in target.parent.iterdir() if path.name not in (target.name, "calls"))


def test_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    """The new content takes the name; the temporary file is gone."""
    target = tmp_path / "keep.bin"
    for content in (b"first", b"second"):
        with durable.replace(target) as file:
            file.write(content)
        assert target.read_bytes() == content
    assert leftovers(target) == []


def test_the_old_file_is_there_until_the_end(tmp_path: Path) -> None:
    """Whoever reads during the writing reads the old file."""
    target = tmp_path / "keep.bin"
    target.write_bytes(b"old")
    with durable.replace(target) as file:
        file.write(NEW)
        file.flush()
        assert target.read_bytes() == b"old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever breaks off the writing, the old file stays and nothing is left."""
    target = tmp_path / "keep.bin"
    target.write_bytes(b"old")

    def broken_off() -> None:
        with durable.replace(target) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        broken_off()
    assert target.read_bytes() == b"old"
    assert leftovers(target) == []


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """No folder is made on the way."""
    with pytest.raises(FileNotFoundError), durable.replace(tmp_path / "absent" / "x"):
        pass


def test_fsync_comes_before_and_after_the_rename(tmp_path: Path) -> None:
    """The content reaches the disk before the name does, and the name before the caller goes on."""
    target = tmp_path / "keep.bin"
    status, calls = trace(target, "-e", "trace=fsync,rename,renameat,renameat2", "-y")
    assert status == 0
    steps = re.findall(rf"(fsync|rename)\w*\(.*?{re.escape(str(tmp_path))}(/\.keep)?", calls)
    assert [(name, bool(inside)) for name, inside in steps] == [("fsync", True), ("rename", True), ("fsync", False)]


@pytest.mark.parametrize(
    ("step", "whole"),
    [
        ("fsync:signal=KILL:when=1", [b"old"]),
        ("rename:signal=KILL:when=1", [b"old", NEW]),
        ("fsync:signal=KILL:when=2", [NEW]),
    ],
)
def test_killed_at_any_step_it_is_the_old_or_the_new(tmp_path: Path, step: str, whole: list[bytes]) -> None:
    """Killed at the fsync of the file, at the rename and at the fsync of the folder: a whole file each time."""
    target = tmp_path / "keep.bin"
    target.write_bytes(b"old")
    status, _ = trace(target, "-e", f"inject={step}")
    assert status in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert target.read_bytes() in whole


@pytest.mark.parametrize("step", ["fsync:error=EIO:when=1", "rename:error=ENOSPC:when=1"])
def test_a_failing_disk_keeps_the_old_file(tmp_path: Path, step: str) -> None:
    """When the disk refuses, the caller is told, the old file stays and nothing is left."""
    target = tmp_path / "keep.bin"
    target.write_bytes(b"old")
    status, _ = trace(target, "-e", f"inject={step}")
    assert status == 1
    assert target.read_bytes() == b"old"
    assert leftovers(target) == []


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """A write that passes the size limit fails, with the old file untouched."""
    target = tmp_path / "keep.bin"
    target.write_bytes(b"old")
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    done = subprocess.run([sys.executable, "-c", limit + WRITE, str(target)], capture_output=True, check=False)
    assert done.returncode == 1
    assert target.read_bytes() == b"old"
    assert leftovers(target) == []


def test_sync_directory_closes_what_it_opens(tmp_path: Path) -> None:
    """No descriptor is left open, be it a folder or not."""
    before = descriptors()
    durable.sync_directory(tmp_path)
    with pytest.raises(OSError, match="absent"):
        durable.sync_directory(tmp_path / "absent")
    assert descriptors() == before
