"""Figures of overload count what came in time, and the sender notes how each request ended."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.open_loop import Outcome, Sender, Shape
from benchmarks.overload import quantile, tokens_per_s

SHAPE = Shape(model="m", vocab_size=50, prompt_tokens=4, max_tokens=3, deadline_s=1.0)


def _outcome(started_s: float, ended_s: float, status: int = 200, *, retry_after: bool = False) -> Outcome:
    return Outcome(started_s=started_s, ended_s=ended_s, status=status, retry_after=retry_after, num_tokens=30 if status == 200 else 0)


def test_goodput_counts_answers_in_time_and_within_the_window() -> None:
    outcomes = [_outcome(0, 0.5), _outcome(1, 1.9), _outcome(1, 2.1), _outcome(4.5, 5.2), _outcome(2, 2.5, 504)]
    assert tokens_per_s(outcomes, 1.0, 1.0, 4.0) == 10.0


def test_a_refusal_is_what_says_when_to_come_back() -> None:
    assert _outcome(0, 1, 429, retry_after=True).is_refusal and _outcome(0, 1, 504, retry_after=True).is_refusal
    assert not _outcome(0, 1, 504).is_refusal and not _outcome(0, 1).is_refusal


def test_quantiles_of_few_values() -> None:
    assert (quantile([3.0, 1.0, 2.0], 0.5), quantile([1.0], 0.99)) == (2.0, 1.0)
    assert math.isnan(quantile([], 0.5))


@asynccontextmanager
async def _server(answers: list[bytes]) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(answers.pop(0))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


async def test_the_sender_notes_status_tokens_and_whether_to_come_back() -> None:
    answers = [
        b'HTTP/1.1 200 OK\r\n\r\n{"usage": {"completion_tokens": 3}}',
        b"HTTP/1.1 429 Too Many\r\nRetry-After: 2\r\n\r\n{}",
        b"",
    ]
    async with _server(answers) as url:
        sender = Sender(url, SHAPE, seed=1)
        for _ in range(3):
            await sender.send()
    assert [(each.status, each.num_tokens, each.is_refusal) for each in sender.outcomes] == [(200, 3, False), (429, 0, True), (0, 0, False)]
