"""Items of the gateway's streams as OpenAI's chunks; what is the same in every chunk of a stream is encoded once."""

import time
from abc import ABC, abstractmethod
from typing import Any

from attendant_server.gateway.interface import StreamItem
from attendant_server.gateway.results import CompletionDelta, StreamEnd
from attendant_server.http_api import answers, logprobs
from attendant_server.http_api.bodies import ChatBody, CompletionBody
from attendant_server.http_api.event_stream import event
from attendant_server.http_api.responses import encode_json


class ChunkWriter(ABC):
    """Writes the items of one stream; usage goes where ``stream_options`` ask for it."""

    object_name: str

    def __init__(self, body: CompletionBody | ChatBody, request_id: str) -> None:
        head = {"id": request_id, "object": self.object_name, "created": int(time.time()), "model": body.model}
        self._head = encode_json(head)[:-1] + b',"choices":'
        self._sends_usage_always = body.sends_usage_always
        self._sends_usage_last = body.sends_usage_last

    @abstractmethod
    def choice(self, delta: CompletionDelta) -> dict[str, Any]:
        """Return the one choice of a chunk."""

    def write(self, item: StreamItem) -> bytes:
        """Return the event of ``item``; b"" for an end that nobody asked about."""
        if isinstance(item, StreamEnd):
            return self._end(item) if self._sends_usage_last else b""
        choices = b"[" + encode_json(self.choice(item)) + b"]"
        if self._sends_usage_always:
            return event(self._head + choices + b',"usage":' + encode_json(answers.usage(item.usage)) + b"}")
        return event(self._head + choices + (b',"usage":null}' if self._sends_usage_last else b"}"))

    def _end(self, end: StreamEnd) -> bytes:
        tail = {"usage": answers.usage(end.usage), **answers.receipt(end.receipt), "timing": answers.timing(end.timing)}
        return event(self._head + b"[]," + encode_json(tail)[1:])


class CompletionChunkWriter(ChunkWriter):
    """Chunks of ``/v1/completions``."""

    object_name = "text_completion"

    def choice(self, delta: CompletionDelta) -> dict[str, Any]:
        """Return a choice with the new text."""
        return answers.completion_choice(delta)


class ChatChunkWriter(ChunkWriter):
    """Chunks of ``/v1/chat/completions``; the first of each choice says whose turn it is."""

    object_name = "chat.completion.chunk"

    def __init__(self, body: ChatBody, request_id: str) -> None:
        super().__init__(body, request_id)
        self._begun: set[int] = set()

    def choice(self, delta: CompletionDelta) -> dict[str, Any]:
        """Return a choice with the new content."""
        content: dict[str, Any] = {"content": delta.text}
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            content = {"role": "assistant", **content}
        return {
            "index": delta.index,
            "delta": content,
            "token_ids": delta.token_ids,
            "logprobs": logprobs.chat_shape(delta.logprobs),
            "finish_reason": delta.finish_reason,
            "stop_reason": answers.stop_reason(delta),
        }
