"""The gate every request passes before any route: a request id, the API key, room for the body, a deadline for it, a line in the log.

Plain ASGI: it bounds a body while it is read, whatever its headers claim. Knows nothing of sounds.
"""

import asyncio
import hmac
import io
import json
import logging
import logging.handlers
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.problems import HttpError, problem_response

OPEN_PATHS = ("/healthz", "/readyz")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

logger = logging.getLogger("earshot.gate")


@dataclass(frozen=True)
class GateRules:
    """What the gate lets through. `max_bytes_in_flight` bounds the memory of all bodies together."""

    api_keys: Sequence[str] = ()
    max_body_bytes: int = 64 << 20
    max_bytes_in_flight: int = 512 << 20
    max_in_flight: int = 64
    body_timeout_s: float = 20.0
    access_log: Path | None = None


@dataclass
class _Passage:
    """One request on its way through."""

    request_id: str
    began_s: float
    status: int = 0
    body_bytes: int = 0
    answered: bool = False


class Gate:
    """ASGI middleware; see the module's first line."""

    def __init__(self, app: ASGIApp, rules: GateRules) -> None:
        self._app = app
        self._rules = rules
        self._in_flight = 0
        self._bytes = 0
        self._log = _access_logger(rules.access_log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        passage = _Passage(_request_id(headers), time.perf_counter())
        scope.setdefault("state", {})["request_id"] = passage.request_id

        async def send_known(message: Message) -> None:
            if message["type"] == "http.response.start":
                passage.status, passage.answered = message["status"], True
                message["headers"] = [*message["headers"], (b"x-request-id", passage.request_id.encode())]
            await send(message)

        try:
            self._check_key(scope["path"], headers)
            await self._admit(passage, headers, scope, receive, send_known)
        except Exception as error:
            if not isinstance(error, HttpError):
                logger.exception("request %s failed", passage.request_id)
            if not passage.answered:
                await problem_response(error, passage.request_id)(scope, receive, send_known)
        finally:
            self._write_log(scope, passage)

    def _check_key(self, path: str, headers: dict[str, str]) -> None:
        if not self._rules.api_keys or path in OPEN_PATHS:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")
        known = [hmac.compare_digest(given.encode("latin-1"), key.encode()) for key in self._rules.api_keys]
        if not any(known):
            challenge = {"WWW-Authenticate": "Bearer"}
            raise HttpError(401, "an API key is needed: send the header 'Authorization: Bearer KEY'", headers=challenge)

    async def _admit(
        self, passage: _Passage, headers: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Lets the request in if its body fits and there is room; the room is given back when it is answered."""
        rules = self._rules
        claimed = headers.get("content-length", "0")
        if not claimed.isdigit():
            raise HttpError(400, "Content-Length is not a number")
        if int(claimed) > rules.max_body_bytes:
            raise self._too_large()
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        if self._in_flight >= rules.max_in_flight or self._bytes + int(claimed) > rules.max_bytes_in_flight:
            raise HttpError(503, "the service is full: send the request again after the seconds in Retry-After")
        self._in_flight += 1
        try:
            await self._app(scope, self._bounded(receive, passage), send)
        finally:
            self._in_flight -= 1
            self._bytes -= passage.body_bytes

    def _bounded(self, receive: Receive, passage: _Passage) -> Receive:
        """`receive`, but with an end to the body's bytes and to the time it may take."""
        whole = False

        async def bounded() -> Message:
            nonlocal whole
            if whole:
                return await receive()  # only a disconnect can come now
            left_s = passage.began_s + self._rules.body_timeout_s - time.perf_counter()
            try:
                async with asyncio.timeout(max(left_s, 0)):
                    message = await receive()
            except TimeoutError as error:
                raise HttpError(
                    408,
                    f"the body did not arrive within {self._rules.body_timeout_s:g} s",
                    headers={"Connection": "close"},
                ) from error
            size = len(message.get("body", b""))
            passage.body_bytes += size
            self._bytes += size
            whole = not message.get("more_body", False)
            if passage.body_bytes > self._rules.max_body_bytes:
                raise self._too_large()
            if self._bytes > self._rules.max_bytes_in_flight:
                raise HttpError(503, "the service is full: send the request again after the seconds in Retry-After")
            return message

        return bounded

    def _too_large(self) -> HttpError:
        limit = self._rules.max_body_bytes / (1 << 20)
        detail = f"the body is over the limit of {limit:g} MiB: compress the sound (FLAC, OGG) or send it in pieces"
        return HttpError(413, detail, headers={"Connection": "close"})

    def _write_log(self, scope: Scope, passage: _Passage) -> None:
        if self._log is None:
            return
        client = scope.get("client")
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": passage.request_id,
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"],
            "status": passage.status or 499,
            "body_bytes": passage.body_bytes,
            "ms": round((time.perf_counter() - passage.began_s) * 1000, 2),
        }
        self._log.info(json.dumps(line))


def _request_id(headers: dict[str, str]) -> str:
    """The caller's X-Request-ID where it is a plain word, else a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else str(uuid.uuid4())


def _access_logger(path: Path | None) -> logging.Logger | None:
    """One JSON object a line; opened anew when a log rotator has moved the file."""
    if path is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger(f"earshot.access.{path}")
    log.propagate = False
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(_AccessFile(path))
    return log


class _AccessFile(logging.handlers.WatchedFileHandler):
    """The access log's file. A disk that is full, or a folder that is gone, costs lines and no request; it is said once each time.

    Each line is one write to the end of the file, without a buffer: replicas that share the file do not mix their lines, and a line that
    found room for a part of it only spoils no other.
    """

    def __init__(self, path: Path) -> None:
        self._broken = False
        super().__init__(path)

    def _open(self) -> Any:  # an io.FileIO, where the base class has a text file with its buffer
        self._torn = False  # of this file, which may be another than before
        return open(self.baseFilename, "ab", buffering=0)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line, if it can."""
        try:
            self.reopenIfNeeded()
            if self.stream is None:
                self.stream = self._open()
            line = f"{self.terminator if self._torn else ''}{self.format(record)}{self.terminator}".encode()
            written = cast(io.FileIO, self.stream).write(line)
            if written < len(line):
                self._torn = True
                raise OSError(f"there was room for {written} of {len(line)} bytes")
            self._broken = self._torn = False
        except (OSError, ValueError) as error:  # ValueError: the stream was closed when it broke
            if not self._broken:
                logger.warning("the access log cannot be written, its lines are lost: %s", error)
            self._broken = True
