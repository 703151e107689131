"""A Debian in a folder, booted with a systemd of its own, with this checkout installed as a user would."""

import fcntl
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peers import ROOT, absent, require_peer, require_root

# The release whose own Python has the version of this one: it can then use the packages installed here.
RELEASES = {(3, 11): "bookworm", (3, 13): "trixie"}
PACKAGES = "systemd,systemd-sysv,dbus,python3,iproute2,curl"
PREFIX = "/opt/edge-runtime"
# The unit's own waits are made for a slow box; a test has no half minute to spare.
QUICK = "[Service]\nWatchdogSec=5\nTimeoutAbortSec=2\nRestartSec=0.2\n"
CONFIG = """
[device]
name = "nspawn"
[trust]
require_signature = false
[discovery]
interfaces = ["127.0.0.1"]
[[pipeline]]
name = "bench"
model = "digits"
source = { port = "/run/sensor" }
"""
# A serial line as udev gives it to the group dialout, and a sensor that sends a picture ten times a second.
SENSOR = """
import grp, os, time, tty
master, slave = os.openpty()
tty.setraw(slave)
path = os.ttyname(slave)
os.chown(path, 0, grp.getgrnam("dialout").gr_gid)
os.chmod(path, 0o660)
os.symlink(path, "/run/sensor")
while True:
    os.write(master, b",".join([b"0.5"] * 64) + b"\\n")
    time.sleep(0.1)
"""


class Box:
    """The booted container; commands run inside of it."""

    def __init__(self, leader: int) -> None:
        self._leader = leader

    def run(self, *command: str, check: bool = True) -> str:
        """Output of a command run in the container as root."""
        enter = ["nsenter", "-t", str(self._leader), "-m", "-p", "-i", "-u", "-n", "--"]
        done = subprocess.run([*enter, *command], capture_output=True, text=True, check=False, timeout=90)
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.journal()}")
        return done.stdout.strip()

    def show(self, key: str) -> str:
        """One property of the unit."""
        return self.run("systemctl", "show", "--value", "-p", key, "edge-runtime")

    def journal(self) -> str:
        """What the daemon and systemd said of it."""
        return self.run("journalctl", "--no-pager", "-q", "-n", "60", "-u", "edge-runtime", check=False)

    def until(self, condition: Callable[[], object], what: str, seconds: float = 40.0) -> None:
        """Wait for a condition, or fail with the journal."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s: {what}\n{self.journal()}")
            time.sleep(0.1)


@contextmanager
def booted(work: Path) -> Iterator[Box]:
    """Boot the cached Debian with the daemon installed and its unit known, but not started."""
    require_root()
    nspawn = require_peer("systemd-nspawn")
    with _locked_root() as root:
        _clean(root)
        _install_unit(root)
        command = [nspawn, "-q", "--register=no", "--keep-unit", "--private-network", "-D", str(root)]
        binds = [f"--bind-ro={source}:{target}" for source, target in _installation(work).items()]
        with (work / "console").open("w") as console:
            process = subprocess.Popen(
                [*command, *binds, "--boot", "--console=pipe"],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        try:
            yield _wait_for_boot(process, work / "console")
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def _locked_root() -> Iterator[Path]:
    release = RELEASES.get(sys.version_info[:2])
    if release is None:
        absent(f"no Debian release has Python {sys.version_info[0]}.{sys.version_info[1]} of its own")
    cache = Path(tempfile.gettempdir()) / "edge-runtime-test-roots"
    cache.mkdir(mode=0o700, exist_ok=True)
    with (cache / f"{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = cache / f"{release}-{PACKAGES.replace(',', '+')}"
        if not root.exists():
            _build(root, str(release))
        yield root


def _build(root: Path, release: str) -> None:
    """Make the folder once; a half-made one never gets the name."""
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    options = ["--mode=root", "--variant=minbase", f"--include={PACKAGES}"]
    command = [require_peer("mmdebstrap"), *options, release, str(partial)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        absent(f"mmdebstrap cannot make a {release} here: {done.stderr[-300:]}")
    partial.rename(root)


def _clean(root: Path) -> None:
    """Nothing of an earlier run is left."""
    for name in ("var/lib/edge-runtime", "var/lib/private/edge-runtime", "var/log/journal", "etc/edge-runtime"):
        path = root / name
        path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)


def _install_unit(root: Path) -> None:
    units = root / "etc/systemd/system"
    shutil.copy(ROOT / "systemd/edge-runtime.service", units)
    dropin = units / "edge-runtime.service.d"
    dropin.mkdir(exist_ok=True)
    (dropin / "quick.conf").write_text(QUICK, encoding="utf-8")
    folder = root / "etc/edge-runtime"
    folder.mkdir()
    (folder / "config.toml").write_text(CONFIG, encoding="utf-8")


def _installation(work: Path) -> dict[Path, str]:
    """What to mount where: a virtual environment of the container's Python over these packages and this checkout."""
    venv = work / "opt"
    packages = venv / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "checkout.pth").write_text(f"{PREFIX}/checkout\n{PREFIX}/packages\n", encoding="utf-8")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n", encoding="utf-8")
    (venv / "bin").mkdir()
    (venv / "bin/python3").symlink_to("/usr/bin/python3")
    for name, module in (("edge-runtime", "daemon"), ("edgectl", "edgectl")):
        script = venv / "bin" / name
        script.write_text(
            f"#!{PREFIX}/bin/python3\nimport sys\nfrom edge_runtime.cli.{module} import main\nsys.exit(main())\n",
            encoding="utf-8",
        )
        script.chmod(0o755)
    (venv / "checkout/edge_runtime").mkdir(parents=True)
    (venv / "checkout/examples").mkdir()
    (venv / "packages").mkdir()
    for folder in (venv, *(path for path in venv.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    return {
        venv: PREFIX,
        ROOT / "edge_runtime": f"{PREFIX}/checkout/edge_runtime",
        ROOT / "examples": f"{PREFIX}/checkout/examples",
        Path(sysconfig.get_path("purelib")): f"{PREFIX}/packages",
    }


def _wait_for_boot(process: "subprocess.Popen[bytes]", console: Path) -> Box:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        leader = children.read_text(encoding="ascii").split()
        if leader:
            box = Box(int(leader[0]))
            if box.run("systemctl", "is-system-running", check=False) in ("running", "degraded"):
                return box
        time.sleep(0.1)
    absent(f"systemd-nspawn cannot boot here: {console.read_text(encoding='utf-8', errors='replace')[-500:]}")
    raise AssertionError  # absent() does not return
