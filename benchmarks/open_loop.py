"""Completions over HTTP at random moments of a given rate, however busy the server is, each with a deadline and timed.

A connection a request and a reader of a few lines: the sender must cost little beside a server on the same cores, and
must see answers that come after their deadline, which a gRPC client cuts off.
"""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

_GIVE_UP_S = 30.0  # beyond the deadline: an answer as late as that counts as none


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What each request is: lengths in tokens, and the seconds that it may take."""

    model: str
    vocab_size: int
    prompt_tokens: int
    max_tokens: int
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one request ended, in seconds from the run's start; ``status`` 0 is no answer at all."""

    started_s: float
    ended_s: float
    status: int
    retry_after: bool
    num_tokens: int

    @property
    def duration_s(self) -> float:
        """From sending to the last byte."""
        return self.ended_s - self.started_s

    @property
    def is_refusal(self) -> bool:
        """Whether it was refused at once, which is when it was told when to come back."""
        return self.status in (429, 503, 504) and self.retry_after


class Sender:
    """Sends requests of one shape to the server at ``url``; every prompt is different, so that no cache answers."""

    def __init__(self, url: str, shape: Shape, *, seed: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._shape = shape
        self._dice = random.Random(seed)
        self._start_s = time.monotonic()
        self.outcomes: list[Outcome] = []

    @property
    def now_s(self) -> float:
        """Seconds since the sender was made."""
        return time.monotonic() - self._start_s

    async def closed(self, concurrency: int, seconds: float) -> None:
        """Let ``concurrency`` callers each send one request after the other, for ``seconds``."""
        end_s = self.now_s + seconds

        async def caller() -> None:
            while self.now_s < end_s:
                await self.send()

        await asyncio.gather(*(caller() for _ in range(concurrency)))

    async def open(self, rate: float, seconds: float) -> None:
        """Send ``rate`` requests a second on average, at the moments of a Poisson process, for ``seconds``; wait for all answers."""
        tasks = set()
        next_s = self.now_s
        end_s = next_s + seconds
        while next_s < end_s:
            await asyncio.sleep(max(0.0, next_s - self.now_s))
            task = asyncio.create_task(self.send())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            next_s += self._dice.expovariate(rate)
        await asyncio.gather(*tasks)

    async def send(self) -> None:
        """Send one request and note how it ended."""
        started_s = self.now_s
        status, retry_after, num_tokens = 0, False, 0
        try:
            async with asyncio.timeout(self._shape.deadline_s + _GIVE_UP_S):
                head, body = await self._post()
            status = int(head.split(b" ", 2)[1])
            retry_after = b"\r\nretry-after:" in head.lower()
            if status == 200:
                num_tokens = json.loads(body)["usage"]["completion_tokens"]
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        self.outcomes.append(
            Outcome(started_s=started_s, ended_s=self.now_s, status=status, retry_after=retry_after, num_tokens=num_tokens)
        )

    async def _post(self) -> tuple[bytes, bytes]:
        shape = self._shape
        prompt = [self._dice.randrange(shape.vocab_size - 1) for _ in range(shape.prompt_tokens)]
        body = json.dumps(
            {"model": shape.model, "prompt": prompt, "max_tokens": shape.max_tokens, "temperature": 0, "ignore_eos": True}
        ).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-timeout-s: {shape.deadline_s}\r\nconnection: close\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            return answer, await reader.read()
        finally:
            writer.close()
