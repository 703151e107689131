"""A real mosquitto for tests."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import free_port, require_peer


def wait_for(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """Poll until `condition` holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.005)
    return found


class Mosquitto:
    """A mosquitto process that can be killed and started again on the same port."""

    def __init__(self, folder: Path, lines: tuple[str, ...] = ()) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        allow = () if any(line.startswith("allow_anonymous") for line in lines) else ("allow_anonymous true",)
        text = "\n".join((f"listener {self.port} 127.0.0.1", "user root", "log_dest none", *allow, *lines))
        self._config.write_text(text + "\n", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Mosquitto":
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen([require_peer("mosquitto"), "-c", str(self._config)])
        wait_for(self._listens, what="mosquitto listens")
        return self

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        """The running broker's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """Where the broker is."""
        return f"mqtt://127.0.0.1:{self.port}"
