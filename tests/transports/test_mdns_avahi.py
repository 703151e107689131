"""The advertiser and discovery against avahi, on another host: two network namespaces with a cable between them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from peers import require_peer, require_root

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SERVICE = "_edge-inference._tcp"
BOX_ID = "77777777-0000-4000-8000-000000000000"


@contextmanager
def running(*command: str, **options: object) -> Iterator["subprocess.Popen[str]"]:
    """A child process, ended with the block."""
    child = subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        child.terminate()
        child.wait(10)
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream:
                stream.close()


def until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Poll `condition`, fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


class Lab:
    """Host 192.0.2.1 with avahi, and host 192.0.2.2 for our side."""

    def __init__(self, avahi: int, ours: int) -> None:
        self._avahi = ["nsenter", "-t", str(avahi), "-n", "-m", "--"]
        self._ours = ["nsenter", "-t", str(ours), "-n", "--"]

    def there(self, *command: str) -> str:
        """The output of a command on avahi's host."""
        return subprocess.run([*self._avahi, *command], capture_output=True, text=True, timeout=20, check=False).stdout

    def start_there(self, *command: str) -> "AbstractContextManager[subprocess.Popen[str]]":
        """A process on avahi's host."""
        return running(*self._avahi, *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def here(self, *command: str) -> str:
        """The output of a command on our host."""
        done = subprocess.run([*self._ours, *command], capture_output=True, text=True, timeout=30, check=True, cwd=ROOT)
        return done.stdout

    @contextmanager
    def box(self, name: str) -> Iterator[Callable[[str], str]]:
        """A box on our host; call it with an order to get its answer."""
        program = [*self._ours, sys.executable, str(HERE / "mdns_box.py"), name, BOX_ID, "0.0.0.0"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with running(*program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
            assert child.stdin
            assert child.stdout
            assert child.stdout.readline() == "started\n"

            def order(text: str) -> str:
                print(text, file=child.stdin, flush=True)
                return child.stdout.readline().strip()

            yield order

    def browse(self) -> list[list[str]]:
        """What avahi resolves: interface, protocol, name, type, domain, host, address, port, TXT."""
        lines = self.there("avahi-browse", "-rtp", SERVICE).splitlines()
        return [line.split(";")[1:] for line in lines if line.startswith("=")]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Both hosts, with avahi running on its own."""
    require_root()
    for program in ("unshare", "nsenter", "ip", "dbus-daemon", "avahi-daemon", "avahi-browse"):
        require_peer(program)
    with ExitStack() as stack:
        there = stack.enter_context(running("unshare", "-n", "-m", "sleep", "300"))
        ours = stack.enter_context(running("unshare", "-n", "sleep", "300"))
        for child in (there, ours):
            _until_apart(child.pid)
        _cable(there.pid, ours.pid)
        made = Lab(there.pid, ours.pid)
        made.there("sh", "-c", "mount -t tmpfs tmpfs /run && mkdir -p /run/dbus /run/avahi-daemon")
        stack.enter_context(made.start_there("dbus-daemon", "--system", "--nofork", "--nopidfile"))
        until(lambda: "yes" in made.there("sh", "-c", "test -S /run/dbus/system_bus_socket && echo yes"), "D-Bus")
        stack.enter_context(made.start_there("avahi-daemon", "--no-drop-root", "--no-rlimits"))
        until(lambda: made.there("avahi-browse", "--version") != "" and _answers(made), "avahi")
        yield made


def _until_apart(pid: int) -> None:
    mine = Path("/proc/self/ns/net").readlink()
    until(lambda: Path(f"/proc/{pid}/ns/net").readlink() != mine, "a namespace of its own")


def _answers(lab: Lab) -> bool:
    return "192.0.2.1" in lab.there("sh", "-c", "avahi-resolve -4 -n $(avahi-resolve -4 -a 192.0.2.1 | cut -f2)")


def _cable(there: int, ours: int) -> None:
    def on(pid: int, *command: str) -> None:
        subprocess.run(["nsenter", "-t", str(pid), "-n", "--", "ip", *command], check=True, capture_output=True)

    on(there, "link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", str(ours))
    for pid, device, address in ((there, "va", "192.0.2.1/24"), (ours, "vb", "192.0.2.2/24")):
        on(pid, "addr", "add", address, "dev", device)
        on(pid, "link", "set", device, "up")
        on(pid, "link", "set", "lo", "up")


def test_avahi_sees_a_box_come_change_and_go(lab: Lab) -> None:
    """Avahi resolves the box's address, port and TXT, hears new models, and the goodbye."""
    with lab.box("Küche oben") as order:
        until(lambda: bool(lab.browse()), "avahi sees the box")
        (found,) = lab.browse()
        assert found[1] == "IPv4"
        assert found[2].replace("\\195\\188", "ü").replace("\\032", " ") == "Küche oben"
        assert found[5:8] == ["edge-77777777.local", "192.0.2.2", "8700"]
        for entry in ("txtvers=1", f"id={BOX_ID}", "api=oip2", "path=/v2", "grpc=8701", "tls=0", "models=digits"):
            assert f'"{entry}"' in found[8]
        order("models digits,gesture")
        until(lambda: '"models=digits,gesture"' in str(lab.browse()), "the new models")
        assert order("stop") == "stopped"
        until(lambda: not lab.browse(), "the goodbye", seconds=4.0)


def test_the_name_is_taken_by_avahi(lab: Lab) -> None:
    """A name that avahi publishes is respected: the box takes the next one."""
    with lab.start_there("avahi-publish", "-s", "kitchen", SERVICE, "8700", "txtvers=1"):
        until(lambda: bool(lab.browse()), "avahi publishes")
        with lab.box("kitchen") as order:
            until(lambda: order("name") == "kitchen-2|", "another name")
            until(lambda: {entry[2] for entry in lab.browse()} == {"kitchen", "kitchen-2"}, "both are there")


def test_discover_hears_what_avahi_publishes(lab: Lab) -> None:
    """`edgectl discover` lists a service that avahi publishes."""
    txt = ("txtvers=1", "id=x", "ver=9.9", "api=oip2", "path=/v2", "grpc=0", "tls=0", "models=a,b")
    with lab.start_there("avahi-publish", "-s", "Stube 2. Stock", SERVICE, "8777", *txt):
        until(lambda: bool(lab.browse()), "avahi publishes")
        found = json.loads(
            lab.here(sys.executable, "-m", "edge_runtime.cli.edgectl", "discover", "--json", "--wait", "1")
        )
    (box,) = found
    assert (box["name"], box["url"]) == ("Stube 2. Stock", "http://192.0.2.1:8777")
    assert (box["version"], box["models"], box["grpc_port"]) == ("9.9", ["a", "b"], 0)
