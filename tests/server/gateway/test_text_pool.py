"""Chats that wait for their template hold up chats at most."""

import asyncio
import threading

import pytest

from attendant_server.errors import ServingError
from attendant_server.gateway.admission import Deadline
from attendant_server.gateway.text_pool import NUM_CHAT_THREADS, TextPool


async def test_texts_go_on_while_every_chat_thread_waits() -> None:
    pool, may_end = TextPool(), threading.Event()
    deadline = Deadline(callers_s=None, request_timeout_s=30)
    try:
        chats = [asyncio.ensure_future(pool.run_chat(deadline, may_end.wait, 30)) for _ in range(NUM_CHAT_THREADS + 1)]
        assert await pool.run(deadline, "a text".upper) == "A TEXT"
        assert not any(chat.done() for chat in chats)
        may_end.set()
        assert all(await asyncio.gather(*chats))
    finally:
        may_end.set()
        pool.close()


async def test_a_chat_ends_at_its_deadline_whatever_its_thread_does() -> None:
    pool, may_end = TextPool(), threading.Event()
    try:
        with pytest.raises(ServingError) as caught:
            await pool.run_chat(Deadline(callers_s=None, request_timeout_s=0.05), may_end.wait, 30)
        assert caught.value.code == "deadline_exceeded"
    finally:
        may_end.set()
        pool.close()
