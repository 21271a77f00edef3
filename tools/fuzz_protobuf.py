"""Send mutated protobuf messages through the gRPC handlers: ``python -m tools.fuzz_protobuf --cases 1000000``.

Each message is a valid one of an RPC, bent in a few places (bits, bytes, varints, lengths, pieces moved or repeated). Whatever it
has become, the answer is one that the error table has for callers: never INTERNAL, never an exception. No network and no model: the
gateway is the tests' own, so a million take minutes. Exit code 1 and the message in hexadecimal where one fails.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from attendant.v1 import (
    chat_pb2,
    classification_pb2,
    common_pb2,
    completion_pb2,
    embedding_pb2,
    few_shot_pb2,
    inference_service_pb2,
    models_pb2,
    tokenization_pb2,
)
from attendant_server.grpc_api.deserializer import tolerant_deserializer
from attendant_server.grpc_api.servicer import InferenceHandlers
from tests.server.grpc_api.fakes import FakeGateway

ALLOWED = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
MAX_BODY_BYTES = 1 << 16
_SERVICE = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"]
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def seeds() -> dict[str, bytes]:
    """Return a valid message of every RPC, with as many fields set as there are."""
    text = common_pb2.Prompt(text="Once upon a time")
    ids = common_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=[1, 2, 3]))
    sampling = common_pb2.SamplingParams(max_tokens=8, temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, seed=7, stop=["a", "b"], n=2)
    complete = completion_pb2.CompleteRequest(model="tiny", prompts=[ids, ids], sampling=sampling, cache_salt="s", priority=1)
    turns = [chat_pb2.ChatMessage(role="user", content="Hello")]
    chat = chat_pb2.ChatRequest(model="tiny", messages=turns, sampling=sampling, cache_salt="s", priority=1)
    examples = [few_shot_pb2.FewShotExample(input="I love this", output="good", reasoning="love")]
    pair = classification_pb2.ClassifyInput(text="a", pair="b")
    resume = common_pb2.Resume(token=b"{}", outputs=[common_pb2.ReceivedOutput(index=1, token_ids=[1, 2], is_finished=True)])
    messages: dict[str, Message] = {
        "Complete": complete,
        "StreamComplete": completion_pb2.StreamCompleteRequest(request=complete, resume=resume),
        "Chat": chat,
        "StreamChat": chat_pb2.StreamChatRequest(request=chat, resume=resume),
        "Embed": embedding_pb2.EmbedRequest(model="tiny", inputs=[text, text], dimensions=3),
        "Classify": classification_pb2.ClassifyRequest(model="tiny", inputs=[pair, pair]),
        "FewShot": few_shot_pb2.FewShotRequest(model="tiny", instruction="do", examples=examples, queries=["q"], labels=["a", "b"]),
        "Tokenize": tokenization_pb2.TokenizeRequest(model="tiny", text="Once"),
        "Detokenize": tokenization_pb2.DetokenizeRequest(model="tiny", token_ids=[1, 2]),
        "ListModels": models_pb2.ListModelsRequest(),
        "GetModel": models_pb2.GetModelRequest(model="tiny"),
        "LoadModel": models_pb2.LoadModelRequest(model="tiny", directory="org/tiny-v2"),
        "UnloadModel": models_pb2.UnloadModelRequest(model="tiny"),
    }
    return {name: message.SerializeToString() for name, message in messages.items()}


def mutate(data: bytes, others: Sequence[bytes], draws: random.Random) -> bytes:
    """Return ``data`` bent in one to four places."""
    changed = bytearray(data)
    for _ in range(draws.randint(1, 4)):
        at = draws.randrange(len(changed) + 1)
        kind = draws.randrange(8)
        if kind == 0 and changed:
            changed[min(at, len(changed) - 1)] ^= 1 << draws.randrange(8)
        elif kind == 1:
            changed[at:at] = draws.randbytes(draws.randint(1, 8))
        elif kind == 2:
            del changed[at : at + draws.randint(1, 8)]
        elif kind == 3:
            changed[at : at + draws.randint(0, 2)] = _varint(draws.choice(_EDGES))
        elif kind == 4:
            # A field of any number and wire type, with a length that may reach past the end.
            changed[at:at] = _varint(draws.randint(0, 40) << 3 | draws.randrange(8)) + _varint(
                draws.choice((0, 1, 5, 200, 2**31, 2**64 - 1))
            )
        elif kind == 5:
            piece = changed[at : at + draws.randint(1, 32)]
            changed[at:at] = piece * draws.randint(1, 50)
        elif kind == 6:
            other = draws.choice(others)
            start = draws.randrange(len(other) + 1)
            changed[at:at] = other[start : start + draws.randint(1, 64)]
        else:
            del changed[at:]
    return bytes(changed)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Context:
    """What the handlers see of an RPC; remembers the status."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.OK
        self.details = ""

    def invocation_metadata(self) -> list[tuple[str, str]]:
        """Return nothing."""
        return []

    def set_code(self, code: grpc.StatusCode) -> None:
        """Remember the status."""
        self.code = code

    def set_details(self, details: str) -> None:
        """Remember the message."""
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str | bytes]]) -> None:
        """Check that the trailers can travel."""
        for key, value in trailing_metadata:
            if isinstance(value, str):
                value.encode("ascii")
            assert len(key) + len(value) < 8192, "trailers are limited to 8 KiB"


async def run_one(handlers: InferenceHandlers, name: str, data: bytes) -> grpc.StatusCode:
    """Return the status with which the RPC answers ``data``; its answers are serialised, as the server would."""
    method = _SERVICE.methods_by_name[name]
    request = tolerant_deserializer(GetMessageClass(method.input_type))(data)
    context = Context()
    handler: Any = getattr(handlers, name)
    if method.server_streaming:
        async for answer in handler(request, context):
            answer.SerializeToString()
    else:
        (await handler(request, context)).SerializeToString()
    return context.code


async def fuzz(num_cases: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Run the cases; return how many had which status, and what failed."""
    draws, valid = random.Random(seed), seeds()
    names, others = list(valid), list(valid.values())
    gateway = FakeGateway()
    handlers = InferenceHandlers(gateway, max_body_bytes=MAX_BODY_BYTES)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for case in range(num_cases):
        name = names[case % len(names)]
        data = mutate(valid[name], others, draws)
        try:
            code = await run_one(handlers, name, data)
        except Exception as error:
            failures.append(f"{name} {data.hex()}: {type(error).__name__}: {error}")
            continue
        counts[code.name] += 1
        if code not in ALLOWED:
            failures.append(f"{name} {data.hex()}: {code.name}")
        gateway.calls.clear()
        gateway.refusals.clear()
    return counts, failures


def main() -> int:
    """Run, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz_protobuf", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started_s = time.monotonic()
    counts, failures = asyncio.run(fuzz(arguments.cases, arguments.seed))
    answers = ", ".join(f"{count} {code}" for code, count in counts.most_common())
    print(f"{arguments.cases} messages in {time.monotonic() - started_s:.0f} s: {answers}")
    for failure in failures[:20]:
        print(failure)
    print(f"{len(failures)} failed")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
