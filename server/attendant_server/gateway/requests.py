"""The tasks' requests: fields, defaults and bounds, once for every transport.

HTTP bodies extend these with what is HTTP's own (``stream``, ``encoding_format``); gRPC messages are converted into
them. Unknown fields are errors and an explicit null means "not given", since LangChain sends those. Whether a value
fits a certain model (context, vocabulary, tasks) is the gateway's business, not this module's.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_INPUTS = 2048
MAX_TEXT_CHARS = 4_000_000
MAX_LABELS = 1024
MAX_LOGIT_BIAS = 1024
MAX_FIELDS = 128

# Long lists stop at their first bad item, and each list of a union has its own bound: a megabyte of nulls otherwise
# makes millions of error records before anything is refused.
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
TokenIdList = Annotated[list[int], Field(min_length=1, max_length=MAX_TEXT_CHARS, fail_fast=True)]
TextList = Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
TokenIdLists = Annotated[list[TokenIdList], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
Prompt = Text | TokenIdList
StopText = Annotated[str, Field(min_length=1, max_length=256)]


def _check_num_biases(value: Any) -> Any:
    """Refuse an object that is too large before its entries are looked at; pydantic counts them only afterwards."""
    if isinstance(value, dict) and len(value) > MAX_LOGIT_BIAS:
        raise ValueError(f"it has {len(value)} entries; it must have at most {MAX_LOGIT_BIAS}")
    return value


class StrictModel(BaseModel):
    """A request or a part of one: strict types, no unknown fields, no NaN, an explicit null the same as absence."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        """An explicit null is the same as an absent field; thousands of unknown fields are one fault, not thousands."""
        if not isinstance(data, dict):
            return data
        if len(data) > MAX_FIELDS:
            raise ValueError(f"an object has {len(data)} fields; it must have at most {MAX_FIELDS}")
        return {key: value for key, value in data.items() if value is not None}


class TaskRequest(StrictModel):
    """What every request has: the name of a model."""

    model: Annotated[str, Field(min_length=1, max_length=256)]


class SamplingFields(BaseModel):
    """How tokens are chosen; see ``attendant_engine.types.SamplingParams`` for what each does."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_LOGIT_BIAS), BeforeValidator(_check_num_biases)
    ] = {}
    min_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] = []
    stop_token_ids: Annotated[list[int], Field(max_length=64)] = []
    ignore_eos: bool = False
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    cache_salt: Annotated[str, Field(max_length=256)] = ""

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """The stop texts as a tuple, however they were given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionRequest(TaskRequest, SamplingFields):
    """Continue one or more prompts (text or token ids)."""

    prompt: Text | TokenIdList | TextList | TokenIdLists
    max_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 16
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list, one entry a prompt, however they were given."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


class ChatMessage(StrictModel):
    """One turn of a conversation."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: Text
    name: Annotated[str, Field(max_length=256)] | None = None


class ChatRequest(TaskRequest, SamplingFields):
    """Write the next turn of a conversation, by the checkpoint's own chat template. ``max_tokens`` None: up to the context."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_INPUTS)]
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class EmbedRequest(TaskRequest):
    """Turn each input (text or token ids) into a vector."""

    input: Text | TokenIdList | TextList | TokenIdLists
    dimensions: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    pooling: Literal["mean", "cls", "last"] | None = None
    normalize: bool | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """The inputs as a list, however they were given."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]
        return list(self.input)


class ClassifyRequest(TaskRequest):
    """Label each text of ``input``, or each ``[first, second]`` of ``pairs``; exactly one of the two is given."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)] | None = None
    pairs: Annotated[list[Annotated[list[Text], Field(min_length=2, max_length=2)]], Field(min_length=1, max_length=MAX_INPUTS)] | None = (
        None
    )
    multi_label: bool | None = None

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> "ClassifyRequest":
        if (self.input is None) == (self.pairs is None):
            raise ValueError("give exactly one of 'input' (texts) and 'pairs' (pairs of texts)")
        return self


class FewShotExample(StrictModel):
    """A worked example."""

    input: Text
    output: Text
    reasoning: Text | None = None


class FewShotRequest(TaskRequest):
    """Do a task from examples in the prompt: labels are scored, or (without labels) an answer is generated."""

    instruction: Text = ""
    examples: Annotated[list[FewShotExample], Field(max_length=MAX_INPUTS)] = []
    queries: Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
    labels: Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(min_length=2, max_length=MAX_LABELS)] | None = None
    template: Text | None = None
    calibrate: bool = False
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 32
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] = []


class TokenizeRequest(TaskRequest):
    """Show how the model reads a text, or a conversation as its chat template writes it (``text`` is then not looked at)."""

    text: Text = ""
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_INPUTS)] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True


class LoadModelRequest(StrictModel):
    """Load the checkpoint in ``directory``, which lies below the server's own for this and is None where it has the model's name."""

    model: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
    directory: Annotated[str, Field(min_length=1, max_length=1024)] | None = None


class UnloadModelRequest(TaskRequest):
    """Take a model away."""


class DetokenizeRequest(TaskRequest):
    """Turn token ids back into text."""

    token_ids: Annotated[list[int], Field(max_length=MAX_TEXT_CHARS, fail_fast=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedOutput:
    """What had come of output ``index`` when its stream was lost."""

    index: int
    token_ids: tuple[int, ...] = ()
    is_finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """A caller's wish to go on: the last token that the stream gave, and the outputs of which anything had come."""

    token: bytes
    outputs: tuple[ReceivedOutput, ...] = ()
