"""Memory that is given back, by the kernel's own count."""

import mmap
import sys
from pathlib import Path

import pytest

from edge_runtime.system.memory import release_file_pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="madvise and /proc as Linux has them")

SIZE = 4 * 1024 * 1024


def resident_bytes(path: Path) -> int:
    """What the mappings of a file hold in this process (proc_pid_smaps(5))."""
    held, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if "-" in name:
            ours = line.endswith(str(path))
        elif ours and name == "Rss:":
            held += int(rest.split()[0]) * 1024
    return held


def test_a_mapped_file_keeps_its_content_and_gives_its_pages_back(tmp_path: Path) -> None:
    """What is touched again comes back from the file."""
    path = tmp_path / "a model.tflite"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        assert sum(mapped[::4096]) == 0
        assert resident_bytes(path) == SIZE
        assert release_file_pages(path) == SIZE
        assert resident_bytes(path) == 0
        assert mapped[:256] == bytes(range(256))


def test_other_mappings_are_left_alone(tmp_path: Path) -> None:
    """One that somebody may write to holds more than the file does; and a file that nobody mapped is no fault."""
    path = tmp_path / "model.tflite"
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapped:
        mapped[0] = 7
        assert release_file_pages(path) == 0
        assert mapped[0] == 7
    assert release_file_pages(tmp_path / "absent") == 0
