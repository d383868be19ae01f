"""The HTTP side: requests and answers as values, the log, and the faults on the wire. Pure ASGI on uvicorn."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs

from loopback_hub.faults import Fault

_CHUNK = 64 * 1024

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """What was asked. The path is still quoted, so that a slash in a revision can be told from one that separates."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class LoggedRequest:
    """A request as the log keeps it. `status` stays None until it is answered, `sent` counts the bytes of the body."""

    method: str
    path: str
    headers: dict[str, str]
    query: dict[str, list[str]] = field(default_factory=dict)
    status: int | None = None
    sent: int = 0


@dataclass(frozen=True)
class Answer:
    """What is answered."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @classmethod
    def json(cls, content: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
        """An answer of the API."""
        return cls(status, {"content-type": "application/json"} | (headers or {}), json.dumps(content).encode())

    @classmethod
    def file(cls, content: bytes, request: Request, headers: dict[str, str]) -> Answer:
        """A file, or the part of it that the request's Range names."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        headers = {"content-type": "application/octet-stream", "accept-ranges": "bytes"} | headers
        if wanted is None:
            return cls(200, headers, content)
        begin, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
        if begin >= len(content):
            return cls(416, headers | {"content-range": f"bytes */{len(content)}"}, b"")
        return cls(206, headers | {"content-range": f"bytes {begin}-{end}/{len(content)}"}, content[begin : end + 1])


def make_app(answer: Callable[[Request], Answer], faults: list[Fault], log: list[LoggedRequest]) -> App:
    """The ASGI application that answers with `answer`, unless the first of the `faults` that applies interferes."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        request = await _read(scope, receive)
        log.append(entry := LoggedRequest(request.method, request.path, dict(request.headers), request.query))
        fault = next((fault for fault in faults if fault.applies(request.method, request.path)), Fault(""))
        if fault.delay and await _gone(receive, fault.delay):
            return
        if fault.end and fault.after is None:
            await _end(fault, receive)
            return
        if fault.whole:
            request.headers.pop("range", None)
        given = _spoiled(answer, request, fault)
        entry.status = given.status
        headers = {"content-length": str(len(given.body))} | given.headers
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": given.status, "headers": encoded})
        body = b"" if request.method == "HEAD" else given.body
        limit = len(body) if fault.end is None else min(fault.after or 0, len(body))
        for begin in range(0, limit, _CHUNK):
            chunk = body[begin : min(begin + _CHUNK, limit)]
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            entry.sent += len(chunk)
            if fault.pace and await _gone(receive, fault.pace):
                return
        if fault.end:
            await asyncio.sleep(0.05)  # an abort throws away what the socket has not sent yet
            await _end(fault, receive)
            return
        await send({"type": "http.response.body"})

    return app


async def _read(scope: dict[str, Any], receive: Receive) -> Request:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    path = scope["raw_path"].decode().partition("?")[0]
    return Request(scope["method"], path, parse_qs(scope["query_string"].decode()), headers, body)


def _spoiled(answer: Callable[[Request], Answer], request: Request, fault: Fault) -> Answer:
    """The answer as the fault has it; with a status of its own nothing of what was asked for is done."""
    if fault.status is not None:
        return Answer(fault.status, fault.headers, fault.body)
    given = answer(request)
    if fault.shorten is not None and given.status in (200, 206):
        rest = re.match(r"bytes=(\d+)-", request.headers.get("range", ""))
        left = given.body[: max(0, fault.shorten - (int(rest[1]) if rest else 0))]
        return replace(given, body=left) if left else Answer(416, {}, b"")
    return given


async def _end(fault: Fault, receive: Receive) -> None:
    if fault.end == "stall":
        await _gone(receive, None)
    else:
        cycle: Any = receive.__self__  # type: ignore[attr-defined]
        cycle.transport.abort()  # uvicorn's own; ASGI has no way to cut a connection


async def _gone(receive: Receive, seconds: float | None) -> bool:
    """Rest for so many seconds, None for as long as it takes, but no longer than until the client is gone."""
    try:
        await asyncio.wait_for(receive(), seconds)
    except TimeoutError:
        return False
    return True
