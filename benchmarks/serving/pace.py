"""Open-loop load at a constant rate, and how long each answer took from when its request was due.

wrk sends the next request when the last is answered, so a stall delays the requests that would have shown it
("coordinated omission"). Here each request has its time; one that cannot be sent in time waits, and its wait counts.
wrk2 does that, but Debian has no package of it; hey's rate limit (`-q`) waits for answers as wrk does.

Usage (by the benchmark): python pace.py PORT FOLDER RATE SECONDS CONNECTIONS spin|sleep     prints JSON
FOLDER holds whole HTTP requests, N.request, asked in turn. `spin` never sleeps: exact, for a core of its own.
"""

import collections
import contextlib
import gc
import json
import re
import select
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_GRACE_SECONDS = 10.0  # for answers that are still out when the last request has been sent


class _Connection:
    """One keep-alive connection with one request out at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self._got = b""

    def status_once_whole(self) -> int:
        """Read; the status of an answer that is complete, 0 before that, -1 where the peer has hung up."""
        data = self.socket.recv(1 << 18)
        if not data:
            return -1
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if found else None
        if length is None or len(body) < int(length[1]):
            return 0
        self._got = b""
        return int(head[9:12])


def ask(
    port: int, requests: Sequence[bytes], rate: float, seconds: float, connections: int, *, spin: bool
) -> dict[int, list[float]]:
    """Milliseconds from due to answered, by status; -1 is a lost connection, 0 no answer at all."""
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        open_ones = {}
        for _ in range(connections):
            connection = _Connection(port)
            stack.callback(connection.socket.close)
            open_ones[connection.socket.fileno()] = connection
            poll.register(connection.socket, select.EPOLLIN)
        return _paced(poll, open_ones, requests, rate, int(rate * seconds), spin=spin)


def _paced(
    poll: select.epoll,
    open_ones: dict[int, _Connection],
    requests: Sequence[bytes],
    rate: float,
    total: int,
    *,
    spin: bool,
) -> dict[int, list[float]]:
    free, late = collections.deque(open_ones.values()), collections.deque[float]()
    seen: dict[int, list[float]] = collections.defaultdict(list)
    sent, done = 0, 0
    now = start = time.perf_counter() + 0.01
    while done < total and now < start + total / rate + _GRACE_SECONDS and open_ones:
        now = time.perf_counter()
        while sent + len(late) < total and start + (sent + len(late)) / rate <= now:
            late.append(start + (sent + len(late)) / rate)
        while late and free:
            connection = free.popleft()
            connection.due = late.popleft()
            connection.socket.sendall(requests[sent % len(requests)])
            sent += 1
        if not spin:
            following = start + (sent + len(late)) / rate
            select.select([poll.fileno()], [], [], max(0.0, min(0.1, following - time.perf_counter())))
        for number, _ in poll.poll(0):
            connection = open_ones[number]
            status = connection.status_once_whole()
            if status:
                seen[status].append((time.perf_counter() - connection.due) * 1e3)
                done += 1
                if status > 0:
                    free.append(connection)
                else:
                    poll.unregister(connection.socket)
                    del open_ones[number]
    if total > done:
        seen[0] = [float("inf")] * (total - done)
    return seen


def main() -> None:
    """Ask as the arguments say and print counts and percentiles by status."""
    port, folder, rate, seconds, connections, how = sys.argv[1:]
    requests = [path.read_bytes() for path in sorted(Path(folder).glob("*.request"))]
    gc.disable()
    seen = ask(int(port), requests, float(rate), float(seconds), int(connections), spin=how == "spin")
    print(json.dumps({str(status): _summary(times) for status, times in seen.items() if times}))


def _summary(times: list[float]) -> dict[str, float]:
    times.sort()
    return {"count": len(times), "p50_ms": times[len(times) // 2], "p99_ms": times[int(len(times) * 0.99)]}


if __name__ == "__main__":
    main()
