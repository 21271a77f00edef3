"""A peer that drags out its headers, its body or its reading is cut; one that does not never notices."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from attendant_server.hosting import bounded_http
from attendant_server.hosting.listeners import HttpListener

HEAD = b"POST /read HTTP/1.1\r\nhost: x\r\n"
OK = b"HTTP/1.1 200 OK"


def _app() -> FastAPI:
    app = FastAPI()

    @app.post("/read")
    async def read(request: Request) -> Response:
        return Response(b"%d" % len(await request.body()), headers={"seen": ",".join(sorted(request.headers))})

    @app.post("/refuse")
    async def refuse() -> Response:
        return Response(b"no", status_code=400)

    @app.get("/flood")
    async def flood() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0)
                yield b"x" * 65536

        return StreamingResponse(pieces())

    return app


@pytest.fixture
async def port() -> AsyncIterator[int]:
    listener = HttpListener(_app(), host="127.0.0.1", port=0)
    listener.start()
    yield listener.port
    await listener.stop()


async def _open(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    return reader, writer


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the server ends the connection."""
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("data", [b"", b"GET ", HEAD, HEAD + b"x: " + b"y" * 1000])
async def test_a_request_that_never_becomes_whole_is_cut(port: int, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(bounded_http, "MAX_HEADER_S", 0.05)
    reader, writer = await _open(port, data)
    assert await _rest(reader) == b""
    writer.close()


async def test_the_clock_of_the_head_starts_anew_on_a_kept_connection(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = await _open(port, HEAD + b"content-length: 1\r\n\r\nx")
    assert (await reader.readuntil(b"\r\n")).startswith(OK)
    monkeypatch.setattr(bounded_http, "MAX_HEADER_S", 0.05)
    writer.write(b"POST /read HT")
    assert b"HTTP/1.1" not in await _rest(reader)
    writer.close()


async def test_a_head_without_end_is_refused(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "MAX_HEADER_S", 1000.0)
    reader, writer = await _open(port, HEAD + b"x: ")
    for _ in range(bounded_http.MAX_HEADER_BYTES // 4096 + 2):
        if reader.at_eof() or writer.is_closing():
            break
        writer.write(b"y" * 4096)
        await asyncio.sleep(0)
    # The answer, or a connection that was reset over what had not been read.
    assert (await _rest(reader))[:12] in (b"HTTP/1.1 431", b"")
    writer.close()


async def test_trailers_are_read_past_and_never_kept(port: int) -> None:
    body = b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nlate: header\r\n\r\n"
    reader, writer = await _open(port, HEAD + body + HEAD + b"connection: close\r\ncontent-length: 0\r\n\r\n")
    answers = await _rest(reader)
    assert answers.count(OK) == 2
    assert b"late" not in answers
    writer.close()


async def test_a_body_that_goes_on_after_its_answer_is_cut(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "LINGER_S", 0.05)
    reader, writer = await _open(port, b"POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nx")
    assert b" 400 " in await _rest(reader)
    writer.close()


async def test_a_body_that_ends_in_time_after_its_answer_keeps_the_connection(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = await _open(port, b"POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nx")
    await reader.readuntil(b"no")
    writer.write(b"x" + HEAD + b"connection: close\r\ncontent-length: 0\r\n\r\n")
    assert OK in await _rest(reader)
    writer.close()


async def test_a_reader_who_takes_nothing_is_cut(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "MAX_STALL_S", 0.05)
    _, writer = await _open(port, b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n")
    # asyncio's reader stops reading the socket when its own buffer is full, so the server's buffers fill.
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        while not writer.transport.is_closing():
            writer.write(b"\r\n")
            await asyncio.sleep(0.01)
    writer.close()


async def test_a_websocket_is_an_ordinary_request(port: int) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n"
    reader, writer = await _open(port, b"GET /flood-not HTTP/1.1\r\nhost: x\r\n" + upgrade)
    assert b" 404 " in await reader.readuntil(b"\r\n")
    writer.close()
