"""What has come of a stream, and the request that another gateway is to go on with it by."""

import copy
from typing import Any

from attendant.v1 import chat_pb2, common_pb2, completion_pb2

StreamRequest = completion_pb2.StreamCompleteRequest | chat_pb2.StreamChatRequest


class Headway:
    """How far a stream has got. With ``may_resume`` False it remembers nothing and the stream cannot go on elsewhere."""

    def __init__(self, request: StreamRequest, *, may_resume: bool) -> None:
        self._request = request
        self._may_resume = may_resume
        self._token = b""
        self._outputs: dict[int, common_pb2.ReceivedOutput] = {}

    @property
    def can_resume(self) -> bool:
        """Whether the server has said how the stream is to be resumed."""
        return bool(self._token)

    def note(self, message: Any) -> None:
        """Take in a message of the stream; the pieces of completions and of chats say alike what is needed."""
        if not self._may_resume:
            return
        if message.HasField("resume_token"):
            self._token = message.resume_token
        if message.HasField("delta"):
            delta = message.delta
            output = self._outputs.setdefault(delta.index, common_pb2.ReceivedOutput(index=delta.index))
            output.token_ids.extend(delta.token_ids)
            output.is_finished = delta.finish_reason != common_pb2.FINISH_REASON_UNSPECIFIED

    def request(self) -> StreamRequest:
        """Return what to send now: the request as it is, or from the first resume token on one that asks for what is left."""
        if not self._token:
            return self._request
        again = copy.deepcopy(self._request)
        again.resume.CopyFrom(common_pb2.Resume(token=self._token, outputs=self._outputs.values()))
        return again
