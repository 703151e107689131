"""A connection whose requests may go the short way; see `direct`."""

import asyncio
from typing import Any

from edge_runtime.errors import CallerError
from edge_runtime.transports.http.bodies import BodyShare
from edge_runtime.transports.http.connections import PROGRESS_BYTES, HttpToolsConnection
from edge_runtime.transports.http.direct import Known, Question


class DirectConnection(HttpToolsConnection):
    """Looks at the first bytes of each request: a known head goes the short way, everything else through the parser."""

    # uvicorn's:
    loop: asyncio.AbstractEventLoop
    tasks: set[asyncio.Task[Any]]
    scope: dict[str, Any]
    server_state: Any

    _in_message = False
    _gathering: "_Gathering | None" = None  # a body that comes in parts
    _asking: asyncio.Task[None] | None = None  # a model that takes its time
    _early = b""  # what came before the present answer was ready
    _last = False  # the connection ends with the present answer

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._asking is None and self._gathering is None and super().idle

    @property
    def receiving(self) -> bool:
        """Whether a request's body is still to come."""
        return self._gathering is not None or super().receiving

    def on_message_begin(self) -> None:
        """The parser has a request."""
        self._in_message = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """The parser has all of it."""
        self._in_message = False
        super().on_message_complete()  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        """Answer at once what can be; the rest goes through the parser."""
        if self._asking is not None:
            self._early += data
            self.flow.pause_reading()
        elif self._gathering is not None:
            self._gather(self._gathering, data)
        elif self._in_message or self.pipeline or self.flow.write_paused or not super().idle:
            super().data_received(data)
        else:
            self._begin(data)

    def _begin(self, data: bytes) -> None:
        """The first bytes of a request, while nothing else is under way."""
        known = self.house_rules.direct.recognize(data)
        if known is None:
            super().data_received(data)
            if not self._in_head and not self.transport.is_closing():
                self.house_rules.direct.learn(data, self.scope)
        elif known.size == len(data):
            self._answer(known, data)
        else:
            self._rest()
            self.progressed()
            self._gathering = _Gathering(known, self.house_rules.direct.share())
            self._gather(self._gathering, data)

    def _gather(self, gathering: "_Gathering", data: bytes) -> None:
        came, size = gathering.came, gathering.known.size
        came += data
        try:
            gathering.share.take(len(data))
        except CallerError:  # the ordinary way tells it
            self._gathering = None
            gathering.share.release()
            super().data_received(bytes(came))
            return
        self._fresh_bytes += len(data)
        if self._fresh_bytes >= PROGRESS_BYTES:
            self.progressed()
        if len(came) < size:
            return
        self._gathering = None
        self._early = bytes(came[size:])
        try:
            self._answer(gathering.known, bytes(memoryview(came)[:size]), gathering.share)
        finally:
            if self._asking is None:
                gathering.share.release()
                self._go_on()

    def _answer(self, known: Known, data: bytes, share: BodyShare | None = None) -> None:
        """Answer a whole request."""
        direct, common = self.house_rules.direct, self.server_state.default_headers
        question = direct.read(known, data)
        if question is None:
            super().data_received(data)
            return
        self._rest()
        answer = direct.answer_now(question, common)
        if answer is not None:
            self._send(answer)
        else:
            self._asking = self.loop.create_task(self._ask(question, share))
            self.tasks.add(self._asking)  # uvicorn waits for them when it stops
            self._asking.add_done_callback(self.tasks.discard)

    async def _ask(self, question: Question, share: BodyShare | None) -> None:
        try:
            answer = await self.house_rules.direct.answer(question, self.server_state.default_headers)
            if not self.transport.is_closing():
                self._send(answer)
        finally:
            self._asking = None
            if share is not None:
                share.release()
        self._go_on()

    def _go_on(self) -> None:
        """After an answer: end, or take what came meanwhile."""
        if self._last:
            self.transport.close()
        elif not self.transport.is_closing():
            early, self._early = self._early, b""
            self.flow.resume_reading()
            if early:
                self.data_received(early)

    def _send(self, answer: bytes) -> None:
        self.progressed()
        self.server_state.total_requests += 1
        self.transport.write(answer)

    def _rest(self) -> None:
        """No timer of uvicorn's while a request goes the short way; `check` looks after it."""
        self._unset_keepalive_if_required()  # type: ignore[attr-defined]  # uvicorn's

    def shutdown(self) -> None:
        """The server stops: what is under way may end."""
        if self._asking is None:
            super().shutdown()  # type: ignore[misc]
        self._last = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for the answer any more: it is not worked out."""
        if self._asking is not None:
            self._asking.cancel()
        if self._gathering is not None:
            self._gathering.share.release()
            self._gathering = None
        super().connection_lost(exc)


class _Gathering:
    """What has come of a request so far."""

    __slots__ = ("came", "known", "share")

    def __init__(self, known: Known, share: BodyShare) -> None:
        self.known = known
        self.share = share
        self.came = bytearray()
