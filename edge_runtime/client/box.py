"""Talk to one box over HTTP."""

import base64
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import quote, urlsplit

import urllib3

from edge_runtime.client.errors import ClientError, UnreachableError

TUS_VERSION = "1.0.0"
CHUNK_BYTES = 1 << 20
CONNECT_SECONDS = 5.0
MAX_ATTEMPTS = 5  # in a row, without a byte arriving
MAX_ANSWER_BYTES = 64 * 1024 * 1024
LONG_POLL_SECONDS = 10.0
COMMITTED = "COMMITTED"
FINAL_STATES = (COMMITTED, "ROLLED_BACK", "REFUSED")

Progress = Callable[[int, int], None]
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Deployment:
    """How far a pushed file has come.

    Attributes:
        state: RECEIVING, RECEIVED, VERIFIED, STAGED, TRIAL; at the end COMMITTED, ROLLED_BACK or REFUSED.
        reason: why it was refused or rolled back.
    """

    id: str
    state: str
    model: str = ""
    version: str = ""
    reason: str = ""

    @property
    def final(self) -> bool:
        """Nothing more will happen."""
        return self.state in FINAL_STATES

    @property
    def committed(self) -> bool:
        """The model is served."""
        return self.state == COMMITTED


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    data: bytes


class BoxClient:
    """One box at `url`. Every method raises ClientError with what the box said, UnreachableError if it said nothing."""

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._pool = urllib3.PoolManager(retries=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def models(self) -> list[Document]:
        """What the box has, one document a model, as `GET /models` describes it."""
        models = self._json("GET", "/models").get("models")
        if not isinstance(models, list):
            raise ClientError(f"{self.url} answered GET /models without a list of models; is it an edge-runtime box?")
        return models

    def status(self) -> Document:
        """The box's health, as `GET /healthz` describes it; a sick box is no error."""
        answer = self._request("GET", "/healthz")
        document = _parse(answer.data)
        if document is None or "status" not in document:
            raise self._refusal(answer)
        return document

    def predict(
        self, model: str, data: bytes, content_type: str = "application/octet-stream", *, raw: bool = False
    ) -> Document:
        """Ask for an answer to a picture, sound, CSV or JSON as it is; `content_type` is its MIME type.

        `raw`: with the values of the model's output tensors in it.
        """
        path = f"/models/{quote(model, safe='')}/predict" + ("?raw=1" if raw else "")
        return self._json("POST", path, data, {"Content-Type": content_type})

    def infer(self, model: str, request: Mapping[str, Any], version: str | None = None) -> Document:
        """Open Inference Protocol v2 with JSON tensors: `request` has "inputs", the answer "outputs"."""
        path = f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")
        return self._post(f"{path}/infer", request)

    def rollback(self, model: str) -> Document:
        """Serve the version before again; answers {"model", "version", "previous"}."""
        return self._post(f"/models/{quote(model, safe='')}/rollback", {})

    def activate(self, model: str, version: str) -> Document:
        """Serve a version that the box still has."""
        return self._post(f"/models/{quote(model, safe='')}/activate", {"version": version})

    def tune(
        self, model: str, objective: str | None = None, progress: Callable[[float], None] = lambda _: None
    ) -> Document:
        """Let the box measure anew how it runs a model best; answers {"model", "setup", "tuning", ...}.

        It takes seconds; `progress` is called with how far it is, 0 to 1.
        """
        path = f"/models/{quote(model, safe='')}/tune"
        run = self._post(path, {"objective": objective} if objective else {})
        while run.get("state") == "RUNNING":
            progress(float(run.get("done", 0.0)))
            run = self._json("GET", f"{path}?wait={LONG_POLL_SECONDS:g}")
        if run.get("state") != "DONE":
            raise ClientError(str(run.get("reason") or f"{self.url} does not say how tuning {model} ended"))
        progress(1.0)
        return run

    def remove(self, model: str) -> Document:
        """Delete a model with all its versions; answers {"removed"}."""
        return self._json("DELETE", f"/models/{quote(model, safe='')}")

    def push(
        self,
        source: Path | bytes,
        *,
        filename: str = "",
        progress: Progress | None = None,
        force: bool = False,
    ) -> str:
        """Upload a bundle by tus 1.0 and return the upload's path, for `wait_deployment`.

        A connection that drops is resumed where the box got to. `progress` is called with bytes sent and bytes
        in all; `force` asks the box to take a version although a newer one was there.
        """
        if isinstance(source, bytes):
            return self._push(io.BytesIO(source), len(source), filename or "upload", progress, force=force)
        with source.open("rb") as file:
            return self._push(file, source.stat().st_size, filename or source.name, progress, force=force)

    def deployment(self, upload: str, seen: str = "", wait_seconds: float = 0.0) -> Deployment:
        """How far an upload is; with `wait_seconds`, answers when its state is no longer `seen`."""
        query = f"?wait={wait_seconds:g}&state={quote(seen, safe='')}" if wait_seconds else ""
        answer = self._request("GET", upload + query, timeout=self._timeout + wait_seconds)
        document = _parse(answer.data)
        if answer.status != 200 or document is None or not isinstance(document.get("state"), str):
            raise self._refusal(answer)
        known = {key: str(document.get(key) or "") for key in ("id", "state", "model", "version", "reason")}
        return Deployment(**known)

    def wait_deployment(
        self, upload: str, on_state: Callable[[Deployment], None] | None = None, timeout_seconds: float = 300.0
    ) -> Deployment:
        """Follow an upload to its end, telling `on_state` each state that was seen.

        Raises:
            ClientError: it did not end within the time, or the box forgot it.
        """
        deadline = time.monotonic() + timeout_seconds
        seen, failures = "", 0
        while (left := deadline - time.monotonic()) > 0:
            try:
                deployment = self.deployment(upload, seen, min(LONG_POLL_SECONDS, max(left, 0.1)))
            except UnreachableError as error:
                failures = self._give_in(failures, error)
                continue
            failures = 0
            if deployment.state != seen and on_state:
                on_state(deployment)
            seen = deployment.state
            if deployment.final:
                return deployment
        raise ClientError(f"{self.url}: the deployment is still {seen or 'unknown'} after {timeout_seconds:g} s")

    def _push(self, file: BinaryIO, size: int, filename: str, progress: Progress | None, *, force: bool) -> str:
        if size == 0:
            raise ClientError(f"{filename} is empty: there is nothing to push")
        upload = self._create(size, filename, force=force)
        offset, failures = 0, 0
        while offset < size:
            if progress:
                progress(offset, size)
            try:
                offset = self._send(upload, file, offset)
                failures = 0
            except UnreachableError as error:
                failures = self._give_in(failures, error)
                offset = self._offset(upload, offset)
        if progress:
            progress(size, size)
        return upload

    def _create(self, size: int, filename: str, *, force: bool) -> str:
        # tus 1.0, "Upload-Metadata": key, space, base64; pairs are parted by commas.
        metadata = f"filename {base64.b64encode(filename.encode()).decode()}" + (",force MQ==" if force else "")
        headers = {"Tus-Resumable": TUS_VERSION, "Upload-Length": str(size), "Upload-Metadata": metadata}
        answer = self._request("POST", "/uploads", b"", headers)
        location = answer.headers.get("Location")
        if answer.status != 201 or not location:
            raise self._refusal(answer)
        parts = urlsplit(location)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def _send(self, upload: str, file: BinaryIO, offset: int) -> int:
        """Send one chunk; returns how far the box is."""
        file.seek(offset)
        headers = {
            "Tus-Resumable": TUS_VERSION,
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
        }
        answer = self._request("PATCH", upload, file.read(CHUNK_BYTES), headers)
        # tus 1.0, "PATCH": 409 says that the offset is another one, 204 that the bytes were taken.
        if answer.status == 409 and (moved := self._offset(upload, offset)) != offset:
            return moved
        taken = _number(answer.headers.get("Upload-Offset"))
        if answer.status != 204 or taken is None:
            raise self._refusal(answer)
        if taken <= offset:
            raise UnreachableError(f"{self.url} took no byte at offset {offset} of the upload", answer.status)
        return taken

    def _offset(self, upload: str, fallback: int) -> int:
        try:
            answer = self._request("HEAD", upload, headers={"Tus-Resumable": TUS_VERSION})
        except UnreachableError:
            return fallback  # the next attempt tells
        offset = _number(answer.headers.get("Upload-Offset"))
        if offset is None:
            raise ClientError(
                f"{self.url} no longer knows the upload (status {answer.status}); push again", answer.status
            )
        return offset

    def _give_in(self, failures: int, error: UnreachableError) -> int:
        """Wait before the next attempt; with too many of them behind, raise the error."""
        if failures + 1 >= MAX_ATTEMPTS:
            raise error
        time.sleep(0.2 * 2**failures)
        return failures + 1

    def _post(self, path: str, document: Mapping[str, Any]) -> Document:
        return self._json("POST", path, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _json(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Document:
        answer = self._request(method, path, body, headers)
        document = _parse(answer.data)
        if answer.status >= 400 or document is None:
            raise self._refusal(answer)
        return document

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> _Answer:
        limits = urllib3.Timeout(connect=min(CONNECT_SECONDS, self._timeout), read=timeout or self._timeout)
        try:
            answer = self._pool.request(
                method,
                self.url + path,
                body=body,
                headers=headers,
                timeout=limits,
                redirect=False,
                preload_content=False,
            )
            try:
                data = answer.read(MAX_ANSWER_BYTES + 1)
            finally:
                answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        if len(data) > MAX_ANSWER_BYTES:
            raise ClientError(f"{self.url} answered {method} {path} with more than {MAX_ANSWER_BYTES} bytes")
        return _Answer(answer.status, answer.headers, data)

    def _refusal(self, answer: _Answer) -> ClientError:
        document = _parse(answer.data)
        if document and isinstance(document.get("error"), str):
            return ClientError(document["error"], answer.status)
        text = answer.data[:200].decode(errors="replace").strip()
        return ClientError(
            f"{self.url} answered status {answer.status} and no reason; is it an edge-runtime box? {text}".rstrip(),
            answer.status,
        )

    def _unreachable(self, error: urllib3.exceptions.HTTPError) -> UnreachableError:
        if isinstance(error, urllib3.exceptions.NameResolutionError):
            return UnreachableError(f"cannot reach {self.url}: there is no host of that name; check the address")
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            return UnreachableError(
                f"{self.url} gave no answer within {self._timeout:g} s; try again, or look at its log"
            )
        # Before its base class ConnectTimeoutError.
        if isinstance(error, urllib3.exceptions.NewConnectionError):
            reason = str(error.__cause__ or error)
            return UnreachableError(
                f"cannot reach {self.url}: {reason}; check the address and the port, and that edge-runtime runs there"
            )
        if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
            return UnreachableError(
                f"cannot reach {self.url}: no answer; check that the box is on, in this network, and behind no firewall"
            )
        return UnreachableError(f"the connection to {self.url} broke: {error}")


def _parse(data: bytes) -> Document | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() else None
