"""Bodies of requests and answers: bounded, packed or not, and off the event loop where they are large."""

from collections.abc import Callable, Mapping
from typing import Any, Self

from edge_runtime.config import HttpConfig
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.workers import ON_LOOP_BYTES, Workers
from edge_runtime.transports.codec import InferAnswer, encode_json
from edge_runtime.transports.http import content_coding
from edge_runtime.transports.http.exchange import Disconnected, Exchange, send_bytes, whole_number

_BINARY = (b"content-type", b"application/octet-stream")
_VARY = (b"vary", b"accept-encoding")
# The most that JSON makes of a byte, about: "-128," of an int8.
_WRITTEN_BYTES = 5
_UNPACKED_PIECE_BYTES = 1024 * 1024


class Bodies:
    """Reads and writes the bodies of the data plane within the configured bounds."""

    def __init__(self, config: HttpConfig, workers: Workers) -> None:
        self.max_bytes = config.max_body_bytes
        self._pack_above_bytes = config.compress_min_bytes
        self._budget = BodyBudget(config.max_bodies_bytes)
        self._workers = workers

    def share(self) -> "BodyShare":
        """One request's part of the memory for bodies; to be used as a context."""
        return self._budget.share()

    async def read(self, exchange: Exchange, share: "BodyShare") -> bytes:
        """The whole body, unpacked.

        Raises:
            CallerError: TOO_LARGE; OVERLOADED; UNSUPPORTED_MEDIA for an unknown coding; not what its coding says.
            Disconnected: the caller hung up.
        """
        coding = exchange.header(b"content-encoding")
        body = await _received(exchange, self.max_bytes, share)
        return await self._unpacked(body, coding, share) if coding else body

    async def _unpacked(self, body: bytes, header: str, share: "BodyShare") -> bytes:
        coding = content_coding.named(header)
        if not coding:
            return body
        pieces = content_coding.unpacked(body, coding, ON_LOOP_BYTES, _UNPACKED_PIECE_BYTES)
        parts, size, work = [], 0, 0
        while (piece := await self._workers.run(work, lambda: next(pieces, None))) is not None:
            size, work = size + len(piece), _UNPACKED_PIECE_BYTES
            if size > self.max_bytes:
                raise _too_large(size, self.max_bytes)
            share.take(len(piece))
            parts.append(piece)
        return b"".join(parts)

    async def answer(self, exchange: Exchange, size: int, write: Callable[[], InferAnswer]) -> None:
        """Answer with what `write` makes of about `size` bytes, packed where the caller takes that and it pays."""
        header = exchange.header(b"accept-encoding")
        wanted = content_coding.accepted(header) if header and self._pack_above_bytes else ""
        if wanted:
            size *= _WRITTEN_BYTES  # it may be enough to be packed, which takes longer than writing it
        answer, coding = await self._workers.run(size, lambda: self._packed(write(), wanted))
        headers = []
        if coding or 0 < self._pack_above_bytes <= len(answer.body):
            headers.append(_VARY)
        if coding:
            headers.append((b"content-encoding", coding.encode()))
        if answer.json_bytes is None:
            await send_bytes(exchange.send, answer.body, 200, *headers)
        else:
            headers.append((b"inference-header-content-length", str(answer.json_bytes).encode()))
            await send_bytes(exchange.send, answer.body, 200, *headers, content_type=_BINARY)

    async def answer_document(self, exchange: Exchange, size: int, write: Callable[[], Any]) -> None:
        """Likewise with a JSON document."""
        await self.answer(exchange, size, lambda: InferAnswer(encode_json(write())))

    def pays_to_pack(self, size: int) -> bool:
        """Whether an answer of so many bytes is packed for who takes that."""
        return 0 < self._pack_above_bytes <= size

    def _packed(self, answer: InferAnswer, coding: str) -> tuple[InferAnswer, str]:
        if not coding or not self.pays_to_pack(len(answer.body)):
            return answer, ""
        return answer._replace(body=content_coding.packed(answer.body, coding)), coding


class BodyBudget:
    """The memory that all request bodies together may take while they are read and worked on, in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.left = max_bytes

    def share(self) -> "BodyShare":
        """One request's part; to be used as a context."""
        return BodyShare(self)


class BodyShare:
    """What one request has taken of the budget; given back at the end of the context."""

    __slots__ = ("_budget", "_taken")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give everything back."""
        self._budget.left += self._taken
        self._taken = 0

    def take(self, size: int) -> None:
        """Take `size` bytes; raises CallerError OVERLOADED where there are no more."""
        self.check(size)
        self._budget.left -= size
        self._taken += size

    def check(self, size: int) -> None:
        """Raise as `take` does, but take nothing: who only announces bytes has no right to them yet."""
        if size > self._budget.left:
            raise CallerError(
                f"overloaded: requests of more than {self._budget.max_bytes - self._budget.left} bytes are being "
                f"worked on, {size} more are too many (http.max_bodies_bytes); try again later",
                Code.OVERLOADED,
            )


async def _received(exchange: Exchange, max_bytes: int, share: BodyShare) -> bytes:
    """The whole body as it came, which takes its bytes from `share` as they come.

    Raises:
        CallerError: TOO_LARGE beyond `max_bytes`, by the header or by counting; OVERLOADED.
    """
    announced = whole_number(exchange.header(b"content-length"))
    if announced is not None:
        if announced > max_bytes:
            raise _too_large(announced, max_bytes)
        share.check(announced)
    message = await exchange.receive()
    body = _part(message, 0, max_bytes, share)
    if not message.get("more_body"):  # the common case: all of it at once
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await exchange.receive()
        parts.append(_part(message, size, max_bytes, share))
        size += len(parts[-1])
    return b"".join(parts)


def _part(message: Mapping[str, Any], before: int, max_bytes: int, share: BodyShare) -> bytes:
    if message["type"] == "http.disconnect":
        raise Disconnected
    part: bytes = message.get("body", b"")
    if before + len(part) > max_bytes:
        raise _too_large(before + len(part), max_bytes)
    share.take(len(part))
    return part


def _too_large(size: int, max_bytes: int) -> CallerError:
    return CallerError(f"the body has {size} bytes or more, the limit here is {max_bytes}", Code.TOO_LARGE)
