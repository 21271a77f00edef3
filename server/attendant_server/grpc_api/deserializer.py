"""Read request bytes so that bytes which are no message become the caller's error, not the server's.

A deserialiser that raises makes grpc answer INTERNAL; this one returns a ``MalformedMessage``, and the handler refuses it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedMessage:
    """Bytes that are not a message of type ``type_name``."""

    type_name: str
    num_bytes: int


def tolerant_deserializer(message_type: type[Message]) -> Callable[[bytes], Message | MalformedMessage]:
    """Return a function from bytes to a message of ``message_type``, or to what says that they are none."""

    def deserialize(data: bytes) -> Message | MalformedMessage:
        try:
            return message_type.FromString(data)
        except DecodeError:
            return MalformedMessage(type_name=message_type.DESCRIPTOR.full_name, num_bytes=len(data))

    return deserialize
