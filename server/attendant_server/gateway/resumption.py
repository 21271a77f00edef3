"""Going on with a stream that was lost with its gateway: the token that its caller holds, and what is made of it later.

The token names the seed, what served the request, and the request itself by a fingerprint, so that another gateway goes on
with the same tokens or refuses. It is no secret and carries no signature, for a forged one gives no power: whoever makes
one up chooses the seed and the first tokens of a request that is his own, authenticated and admitted like any other, which
he could as well have sent as a prompt. The tenant's salt is in the fingerprint: a token is of no use with another's key.
"""

import array
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from attendant_engine.tokenizers import Tokenizer
from attendant_engine.types import ModelInfo
from attendant_server.errors import ServingError
from attendant_server.gateway.generation import BegunOutput, GenerationPlan, new_reader
from attendant_server.gateway.replicas import NOT_READY_RETRY_AFTER_S, ReplicaSet
from attendant_server.gateway.requests import ReceivedOutput
from attendant_server.gateway.results import Receipt
from attendant_server.gateway.validation import check_token_ids
from attendant_server.violations import show_value

MAX_TOKEN_BYTES = 1024
_PARAM = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """What a token says. ``receipt`` has no seed; ``cached_tokens`` is what the usage of the stream said of the cache."""

    fingerprint: Annotated[str, Field(max_length=64)]
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    receipt: Receipt
    cached_tokens: Annotated[int, Field(ge=0, lt=2**31)] = 0

    def token(self) -> bytes:
        """Write it down for the caller."""
        token = _POINTS.dump_json(self)
        assert len(token) <= MAX_TOKEN_BYTES, "a resume token has outgrown its bound"
        return token

    @staticmethod
    def read(token: bytes) -> "ResumePoint":
        """Read what ``token`` wrote. Raises ``ServingError`` for anything else."""
        if len(token) > MAX_TOKEN_BYTES:
            raise _refusal(f"the resume token has {len(token)} bytes; those of this server have at most {MAX_TOKEN_BYTES}")
        try:
            return _POINTS.validate_json(token, strict=True)
        except ValidationError:
            raise _refusal("the resume token is none that this server gave; send back the bytes of resume_token as they came") from None


_POINTS = TypeAdapter(ResumePoint)


def fingerprint(plan: GenerationPlan) -> str:
    """Return what names all that decides the answer to a request, its tenant's salt included."""
    # The prompts' ids may be many; written out one by one they would take ten times as long.
    facts = replace(plan, prompts=(), priority=0)
    digest = blake2b(repr(facts).encode("utf-8", "backslashreplace"), digest_size=16)
    for prompt in plan.prompts:
        digest.update(len(prompt.token_ids).to_bytes(8, "little"))
        digest.update(array.array("q", prompt.token_ids).tobytes())
    return digest.hexdigest()


def find_like(replicas: ReplicaSet, point: ResumePoint) -> ModelInfo:
    """Return what a replica says of itself that answers as the one did which began.

    Raises ``ServingError``: not_ready while a replica is still to be heard, invalid_value when none answers so.
    """
    infos = [link.info for link in replicas.links]
    known = [info for info in infos if info is not None]
    for info in known:
        if Receipt.of(info) == point.receipt:
            return info
    if not known or len(known) < len(infos):
        raise ServingError("not_ready", "no replica is ready that can go on with this stream", retry_after_s=NOT_READY_RETRY_AFTER_S)
    now = Receipt.of(known[0])
    differing = [each.name for each in fields(Receipt) if getattr(now, each.name) != getattr(point.receipt, each.name)]
    name = differing[0]
    raise _refusal(
        f"the stream was begun with {name} {show_value(getattr(point.receipt, name))} and this server now has "
        f"{show_value(getattr(now, name))}, so other tokens would follow; send the request anew"
    )


def check_same(name: str, point: ResumePoint) -> None:
    """Raise ``ServingError`` unless the token was given for the request of this fingerprint."""
    if name != point.fingerprint:
        raise _refusal("the request is not the one that the resume token was given for; send the same request, with the same key")


def rebuild(plan: GenerationPlan, tokenizer: Tokenizer, outputs: Sequence[ReceivedOutput], *, vocab_size: int) -> dict[int, BegunOutput]:
    """Return outputs as they stood: text in its decoder, what a stop text may begin with, offsets. May take long.

    Raises ``ServingError`` for outputs that the request cannot have.
    """
    begun: dict[int, BegunOutput] = {}
    for output in outputs:
        where = f"output {output.index} of 'resume'"
        if output.index >= len(plan.prompts) * plan.num_each:
            raise _refusal(f"there is no {where}; this request has {len(plan.prompts) * plan.num_each}, from 0 on")
        if output.index in begun:
            raise _refusal(f"{where} is there twice; name each output once")
        if len(output.token_ids) > plan.params.max_tokens:
            raise _refusal(f"{where} has {len(output.token_ids)} tokens and max_tokens is {plan.params.max_tokens}; send what came")
        if output.token_ids:
            check_token_ids(output.token_ids, vocab_size=vocab_size, param=_PARAM)
        reader = new_reader(plan, tokenizer, plan.prompts[output.index // plan.num_each])
        reader.skip(output.token_ids, is_last=output.is_finished)
        if reader.is_done and not output.is_finished:
            raise _refusal(f"{where} has come to its stop text; say that it is finished")
        begun[output.index] = BegunOutput(reader=reader, token_ids=output.token_ids)
    return begun


def _refusal(message: str) -> ServingError:
    return ServingError("invalid_value", message, param=_PARAM)
