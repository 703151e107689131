"""Ports are found, lost, found again, and say why they cannot be used."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from typing import Self

import pytest
import serial
from serial_bench import Cable, until

from edge_runtime.config import SourceConfig
from edge_runtime.errors import TransportError
from edge_runtime.sensors.links import Chunk, LinkState
from edge_runtime.sensors.serial_link import SerialLink, find_port, open_port


class Listener:
    """Collects a link's chunks while the block runs."""

    def __init__(self, port: object, **source: object) -> None:
        self.link = SerialLink(SourceConfig(str(port), reopen_max_seconds=0.1, **source), "bench")
        self.chunks: list[Chunk] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _listen(self) -> None:
        async with contextlib.aclosing(self.link.chunks()) as chunks:
            async for chunk in chunks:
                self.chunks.append(chunk)

    def data(self, opening: int = 1) -> bytes:
        """What came since one opening of the port."""
        return b"".join(chunk.data for chunk in self.chunks if chunk.opening == opening)

    async def state(self, state: LinkState) -> None:
        """Wait for a state of the link."""
        await until(lambda: self.link.status.state is state, f"{state}, is {self.link.status}")


def test_bytes_arrive_and_the_port_is_let_go(pty: tuple[int, str]) -> None:
    """A port is opened for ourselves alone, read, and free again when the link is closed."""
    master, path = pty

    async def scenario() -> None:
        async with Listener(path) as listener:
            await listener.state(LinkState.OPEN)
            os.write(master, b"1,2\n")
            await until(lambda: listener.data() == b"1,2\n", "bytes")
            with pytest.raises(TransportError, match="in use"):
                open_port(path, 9600)
        assert listener.link.status.state is LinkState.CLOSED
        open_port(path, 9600).close()
        await until(lambda: not any(t.name.startswith("serial:") for t in threading.enumerate()), "no thread left")

    began = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - began < 2


def test_pulled_and_plugged_again(cable: Cable) -> None:
    """A port that is absent, comes, goes and comes back is used each time, without a restart."""

    async def scenario() -> None:
        async with Listener(cable.port) as listener:
            await listener.state(LinkState.WAITING)
            assert "is not there" in listener.link.status.detail
            for opening in (1, 2, 3):
                cable.plug()
                await listener.state(LinkState.OPEN)
                cable.write(b"%d\n" % opening)
                await until(lambda n=opening: listener.data(n) == b"%d\n" % n, "bytes")
                cable.pull()
                await listener.state(LinkState.LOST)
                since = listener.link.status.since
            await asyncio.sleep(0.3)  # several attempts later it is still lost, since then
            assert (listener.link.status.state, listener.link.status.since) == (LinkState.LOST, since)

    asyncio.run(scenario())


def test_a_port_in_use_is_busy_until_it_is_free(pty: tuple[int, str]) -> None:
    """Two programs on one port would each get half of the bytes: the second one waits."""
    _, path = pty

    async def scenario() -> None:
        with serial.Serial(path, exclusive=True):
            async with Listener(path) as listener:
                await listener.state(LinkState.BUSY)
                assert "in use by another program" in listener.link.status.detail
        async with Listener(path) as listener:
            await listener.state(LinkState.OPEN)

    asyncio.run(scenario())


def test_no_permission_names_the_group(pty: tuple[int, str]) -> None:
    """Who may not open the port is told which group may."""
    _, path = pty
    if os.geteuid() != 0:
        pytest.skip("needs root to take a permission away from another user")
    Path(path).chmod(0o600)
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setuid(65534)
        try:
            open_port(path, 9600)
        except TransportError as error:
            os._exit(0 if "group dialout" in str(error) and error.state is LinkState.DENIED else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("path", ["/dev/null", "/etc/hostname", "bogus://x", "/dev"])
def test_what_is_no_port_fails_with_a_reason(path: str) -> None:
    """A file, a device or a URL that is no serial port is named; the link keeps trying and nothing is raised."""

    async def scenario() -> None:
        async with Listener(path) as listener:
            await listener.state(LinkState.FAILED)
            assert path in listener.link.status.detail

    asyncio.run(scenario())


def test_a_pattern_finds_the_first_by_name(tmp_path: Path) -> None:
    """Of several matches the first by name is taken, whatever order the folder has."""
    for name in ("usb-Arduino_9-if00", "usb-Arduino_1-if00", "usb-FTDI_0-if00"):
        (tmp_path / name).touch()
    assert find_port(f"{tmp_path}/*Arduino*") == f"{tmp_path}/usb-Arduino_1-if00"
    with pytest.raises(TransportError, match=r"no port matches .*CP210"):
        find_port(f"{tmp_path}/*CP210*")
    assert find_port("/dev/ttyUSB0") == "/dev/ttyUSB0"
    assert find_port("socket://host:1?logging=debug") == "socket://host:1?logging=debug"


def test_a_pattern_is_matched_again_after_a_loss(cable: Cable, tmp_path: Path) -> None:
    """A sensor that comes back under another name of the same pattern is found."""

    async def scenario() -> None:
        async with Listener(tmp_path / "tty*BOX*") as listener:
            await listener.state(LinkState.WAITING)
            cable.plug()
            await listener.state(LinkState.OPEN)
            cable.pull()
            cable.port = tmp_path / "ttyBOX-2"
            await listener.state(LinkState.LOST)
            cable.plug()
            await listener.state(LinkState.OPEN)
            assert listener.link.status.detail == str(cable.port)

    asyncio.run(scenario())


def test_a_socket_url_is_reconnected() -> None:
    """A serial server over TCP is a port too, and is found again when it was away."""

    async def scenario(server: socket.socket) -> None:
        port = server.getsockname()[1]
        async with Listener(f"socket://127.0.0.1:{port}") as listener:
            for opening in (1, 2):
                peer, _ = await asyncio.to_thread(server.accept)
                with peer:
                    await until(lambda n=opening: listener.link._opening == n, "open")
                    peer.sendall(b"hello")
                    await until(lambda n=opening: listener.data(n) == b"hello", "bytes")
                await listener.state(LinkState.LOST)

    with socket.create_server(("127.0.0.1", 0)) as server:
        asyncio.run(scenario(server))


def test_an_absent_server_is_waited_for() -> None:
    """A refused connection is a port that is not there yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    async def scenario() -> None:
        async with Listener(f"socket://127.0.0.1:{port}") as listener:
            await listener.state(LinkState.WAITING)

    asyncio.run(scenario())


def test_a_full_buffer_holds_the_sender_back_and_loses_nothing(pty: tuple[int, str]) -> None:
    """With nobody taking the bytes only buffer_max_bytes are kept; later all arrive, in order."""
    master, path = pty
    os.set_blocking(master, False)
    sent = b"".join(b"%07d\n" % i for i in range(20_000))

    async def scenario() -> None:
        link = SerialLink(SourceConfig(path, buffer_max_bytes=8192), "bench")
        got, rest = bytearray(), memoryview(sent)
        async with contextlib.aclosing(link.chunks()) as chunks:
            first = asyncio.ensure_future(anext(chunks))
            await until(lambda: link.status.state is LinkState.OPEN, "open")
            while True:  # until it is full from end to end: buffer and kernel
                try:
                    rest = rest[os.write(master, rest) :]
                except BlockingIOError:
                    await asyncio.sleep(0.05)
                    with contextlib.suppress(BlockingIOError):
                        rest = rest[os.write(master, rest) :]
                        continue
                    break
            assert len(sent) - len(rest) < 200_000
            got += (await first).data
            while len(got) < len(sent):
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(master, rest) :]
                got += (await anext(chunks)).data
        assert got == sent

    asyncio.run(scenario())


def test_cancelling_while_the_buffer_is_full_ends_the_thread(cable: Cable) -> None:
    """A reader that waits for room is let go at once."""

    async def scenario() -> None:
        link = SerialLink(SourceConfig(str(cable.port), buffer_max_bytes=1), "bench")
        async with contextlib.aclosing(link.chunks()) as chunks:
            first = asyncio.ensure_future(anext(chunks))
            await until(lambda: link.status.state is LinkState.OPEN, "open")
            for _ in range(3):
                cable.write(b"x" * 4000)
            await first
            await asyncio.sleep(0.1)
            began = time.monotonic()
        assert time.monotonic() - began < 1
        assert link.status.state is LinkState.CLOSED

    cable.plug()
    asyncio.run(scenario())
