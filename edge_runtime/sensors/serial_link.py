"""A serial port, found, opened, read, lost and found again.

One thread for each port does all that may block (open, read, close) and hands the bytes over to the event loop. A
thread, and not a reader on the file descriptor, because some of pyserial's URLs (rfc2217://, loop://) have none, and
because opening and closing a tty may block in its driver.
"""

import asyncio
import errno
import glob
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable

import serial

from edge_runtime.config import SourceConfig
from edge_runtime.errors import TransportError
from edge_runtime.sensors.links import Chunk, LinkState, LinkStatus

log = logging.getLogger(__name__)

_CHUNK_BYTES = 4096  # a Linux tty holds no more
_READ_SECONDS = 0.5  # how long a port that cannot be interrupted may hold up the end
_REOPEN_MIN_SECONDS = 0.1
_CLOSE_MAX_SECONDS = 2.0

_ABSENT = {errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EIO, errno.ENOTDIR}
_DENIED = {errno.EACCES, errno.EPERM}
_BUSY = {errno.EBUSY, errno.EAGAIN}


class _PortError(TransportError):
    """A port that cannot be used now; `state` says in which way."""

    def __init__(self, state: LinkState, message: str) -> None:
        super().__init__(message)
        self.state = state


class SerialLink:
    """The link to the port that `source` names. A status is replaced as a whole, so it can be read from any thread."""

    def __init__(self, source: SourceConfig, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._name = name
        self._clock = clock
        self._status = LinkStatus(LinkState.CLOSED, "not started", clock())
        self._opening = 0

    @property
    def status(self) -> LinkStatus:
        """Where the link stands."""
        return self._status

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Every chunk from now on; ends only when it is closed, and then the port is closed too."""
        buffer = _Buffer(self._source.buffer_max_bytes, asyncio.get_running_loop())
        ended = asyncio.Event()
        thread = threading.Thread(target=self._run, args=(buffer, ended), name=f"serial:{self._name}", daemon=True)
        thread.start()
        try:
            while True:
                yield await buffer.get()
        finally:
            buffer.close()
            await _wait(ended, self._name)

    def _run(self, buffer: "_Buffer", ended: asyncio.Event) -> None:
        """The thread: open, read until the port is lost, wait a little longer each time, again."""
        wait = _REOPEN_MIN_SECONDS
        while not buffer.closed.is_set():
            began, opening = self._clock(), self._opening
            try:
                self._open_and_read(buffer)
            except _PortError as error:
                self._become(error.state, str(error))
            except Exception as error:
                log.exception("serial port of %s", self._name)
                self._become(LinkState.FAILED, f"{type(error).__name__}: {error}")
            lasted = self._opening > opening and self._clock() - began > self._source.reopen_max_seconds
            wait = _REOPEN_MIN_SECONDS if lasted else wait
            buffer.closed.wait(wait)
            wait = min(wait * 2, self._source.reopen_max_seconds)
        self._become(LinkState.CLOSED, "stopped")
        os.close(buffer.wake)
        buffer.tell(ended.set)

    def _open_and_read(self, buffer: "_Buffer") -> None:
        path = find_port(self._source.port)
        port = open_port(path, self._source.baud)
        try:
            read = _reader(port, path, buffer.wake)
            self._opening += 1
            self._become(LinkState.OPEN, path)
            while not buffer.closed.is_set():
                data = read()
                if data and not buffer.put(Chunk(self._opening, data)):
                    return
        finally:
            _close(port)

    def _become(self, state: LinkState, detail: str) -> None:
        # A port that was lost is lost until it is found: that it is absent now says less.
        if state is LinkState.WAITING and self._status.state is LinkState.LOST:
            return
        if (state, detail) != (self._status.state, self._status.detail):
            log.log(_level(state), "%s: serial port %s: %s", self._name, state, detail)
            self._status = LinkStatus(state, detail, self._clock())


def find_port(port: str) -> str:
    """The path or URL that `port` (a path, a glob pattern or a URL) stands for now: of several, the first by name.

    Raises:
        TransportError: nothing matches the pattern.
    """
    if "://" in port or not glob.has_magic(port):
        return port
    found = sorted(glob.glob(port))  # noqa: PTH207 - an absolute pattern, which Path.glob does not take
    if not found:
        raise _PortError(LinkState.WAITING, f"no port matches {port}; is the sensor plugged in?")
    return found[0]


def open_port(path: str, baud: int) -> serial.Serial:
    """Open a device or a pyserial URL, for ourselves alone where that is possible.

    Raises:
        TransportError: it cannot be opened now.
    """
    try:
        if "://" in path:
            return serial.serial_for_url(path, baudrate=baud, timeout=_READ_SECONDS)
        return serial.Serial(path, baudrate=baud, timeout=_READ_SECONDS, exclusive=True)
    except (OSError, ValueError, OverflowError) as error:  # SerialException is an OSError
        raise _explained(path, error) from error


def _explained(path: str, error: Exception) -> _PortError:
    number = getattr(error, "errno", None)
    if number in _ABSENT:
        return _PortError(LinkState.WAITING, f"{path} is not there; is the sensor plugged in?")
    if number in _DENIED:
        return _PortError(LinkState.DENIED, f"no permission for {path}: add the daemon's user to the group dialout")
    if number in _BUSY:
        return _PortError(LinkState.BUSY, f"{path} is in use by another program; stop that one")
    if "://" in path and isinstance(error, serial.SerialException):
        return _PortError(LinkState.WAITING, str(error))
    return _PortError(LinkState.FAILED, f"{path} cannot be used as a serial port: {error}")


def _reader(port: serial.Serial, path: str, wake: int) -> Callable[[], bytes]:
    """A function that waits for bytes and returns those that are there; none when `wake` was written to."""
    wait = _waiter(port, wake)

    def read() -> bytes:
        try:
            if wait is not None:
                wait()
                return port.read(_CHUNK_BYTES)
            data = port.read(1)
            return data + port.read(port.in_waiting) if data else data
        except (OSError, ValueError, TypeError) as error:
            raise _PortError(LinkState.LOST, f"{path} was lost: {error}") from error

    return read


def _waiter(port: serial.Serial, wake: int) -> Callable[[], object] | None:
    """What waits until the port or `wake` has something to read; None where only the port itself can wait."""
    try:
        descriptor = port.fileno()
    except (OSError, AttributeError):
        port.timeout = _READ_SECONDS
        return None
    port.timeout = 0
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.register(wake, select.POLLIN)
    return poller.poll


def _close(port: serial.Serial) -> None:
    # pyserial forgets a socket that the peer has reset without closing it.
    connection = getattr(port, "_socket", None)
    try:
        port.close()
    except OSError as error:
        log.debug("closing a port that was lost: %s", error)
    if connection is not None:
        connection.close()


def _level(state: LinkState) -> int:
    return logging.INFO if state in (LinkState.OPEN, LinkState.CLOSED) else logging.WARNING


async def _wait(ended: asyncio.Event, name: str) -> None:
    try:
        async with asyncio.timeout(_CLOSE_MAX_SECONDS):
            await ended.wait()
    except TimeoutError:
        log.warning("%s: the driver of its serial port does not let go; leaving its thread behind", name)


class _Buffer:
    """Chunks from the thread to the loop, at most `max_bytes` of them (and always one).

    When it is full the thread waits and the bytes stay where they are: in the kernel, whose flow control then works,
    or at the sender. Throwing bytes away here would join the halves of two frames to a third that was never sent.
    """

    def __init__(self, max_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self._max_bytes = max_bytes
        self._loop = loop
        self._chunks: deque[Chunk] = deque()
        self._bytes = 0
        self.closed = threading.Event()
        self.wake = os.eventfd(0)
        self._room = threading.Condition()
        self._ready = asyncio.Event()

    def put(self, chunk: Chunk) -> bool:
        """Called in the thread: add a chunk, waiting for room; False when the buffer was closed."""
        with self._room:
            self._room.wait_for(lambda: self.closed.is_set() or self._fits(chunk))
            if self.closed.is_set():
                return False
            self._chunks.append(chunk)
            self._bytes += len(chunk.data)
        return self.tell(self._ready.set)

    def _fits(self, chunk: Chunk) -> bool:
        return not self._chunks or self._bytes + len(chunk.data) <= self._max_bytes

    async def get(self) -> Chunk:
        """Called in the loop: the oldest chunk."""
        while True:
            with self._room:
                if self._chunks:
                    chunk = self._chunks.popleft()
                    self._bytes -= len(chunk.data)
                    self._room.notify()
                    return chunk
                self._ready.clear()
            await self._ready.wait()

    def close(self) -> None:
        """Tell the thread that nobody wants more."""
        os.eventfd_write(self.wake, 1)  # first: the thread closes it once it knows
        with self._room:
            self.closed.set()
            self._room.notify()

    def tell(self, callback: Callable[[], None]) -> bool:
        """Called in the thread: run `callback` in the loop; False when the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            return False
        return True
