"""Whatever goes over the wire comes back equal."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attendant.link.v1 import link_pb2 as pb
from attendant_engine.types import (
    AdapterInfo,
    GenerationRequest,
    ModelInfo,
    OutputError,
    PooledOutput,
    PoolingRequest,
    SamplingParams,
    SequenceOutput,
    TokenLogprobs,
)
from attendant_server.link import convert

IDS = st.integers(0, 2**32 - 1)
FLOATS = st.floats(allow_nan=False)
TEXTS = st.text(max_size=20)
TOKENS = st.lists(IDS, max_size=8).map(tuple)
SEEDS = st.none() | st.integers(-(2**63), 2**63 - 1)
PRIORITIES = st.integers(-100, 100)
ERRORS = st.none() | st.builds(OutputError, code=TEXTS, message=TEXTS, param=st.none() | TEXTS, retry_after_s=st.none() | FLOATS)
TOP = st.lists(st.tuples(IDS, FLOATS), max_size=3).map(tuple)
POSITIONS = st.builds(TokenLogprobs, token_id=IDS, logprob=FLOATS, rank=IDS, top=TOP)

PARAMS = st.builds(
    SamplingParams,
    max_tokens=IDS,
    temperature=FLOATS,
    top_k=IDS,
    top_p=FLOATS,
    min_p=FLOATS,
    repetition_penalty=FLOATS,
    presence_penalty=FLOATS,
    frequency_penalty=FLOATS,
    logit_bias=TOP,
    min_tokens=IDS,
    stop_token_ids=TOKENS,
    ignore_eos=st.booleans(),
    seed=SEEDS,
    logprobs=st.none() | IDS,
    prompt_logprobs=st.none() | IDS,
    prompt_logprobs_start=IDS,
)
GENERATIONS = st.builds(
    GenerationRequest,
    request_id=TEXTS,
    prompt_token_ids=TOKENS,
    params=PARAMS,
    n=st.integers(1, 128),
    priority=PRIORITIES,
    cache_salt=TEXTS,
    tenant=TEXTS,
    tenant_weight=FLOATS,
)
POOLINGS = st.builds(
    PoolingRequest,
    request_id=TEXTS,
    prompt_token_ids=TOKENS,
    task=st.sampled_from(["embedding", "classification"]),
    token_type_ids=st.none() | st.lists(IDS, min_size=1, max_size=8).map(tuple),
    pooling=st.none() | st.sampled_from(["mean", "cls", "last"]),
    normalize=st.none() | st.booleans(),
    priority=PRIORITIES,
    adapter=st.none() | TEXTS,
    tenant=TEXTS,
    tenant_weight=FLOATS,
)
SEQUENCES = st.builds(
    SequenceOutput,
    request_id=TEXTS,
    index=st.integers(0, 127),
    token_ids=TOKENS,
    logprobs=st.none() | st.lists(POSITIONS, max_size=3).map(tuple),
    prompt_logprobs=st.none() | st.lists(st.none() | POSITIONS, max_size=3).map(tuple),
    finish_reason=st.none() | st.sampled_from(["stop", "length", "abort", "error"]),
    stop_token_id=st.none() | IDS,
    num_cached_tokens=IDS,
    seed=SEEDS,
    queue_s=FLOATS,
    prefill_s=FLOATS,
    decode_s=FLOATS,
    error=ERRORS,
)
POOLED = st.builds(
    PooledOutput,
    request_id=TEXTS,
    values=st.lists(st.floats(width=32, allow_nan=False), max_size=8).map(tuple),
    num_prompt_tokens=IDS,
    queue_s=FLOATS,
    error=ERRORS,
)
ADAPTERS = st.builds(
    AdapterInfo,
    name=TEXTS,
    tasks=st.lists(st.sampled_from(["embedding", "classification"]), max_size=2).map(tuple),
    digest=TEXTS,
    rank=IDS,
    num_parameters=st.integers(0, 2**64 - 1),
    labels=st.lists(TEXTS, max_size=3).map(tuple),
    multi_label=st.booleans(),
)
MODELS = st.builds(
    ModelInfo,
    name=TEXTS,
    path=TEXTS,
    family=TEXTS,
    kind=st.sampled_from(["decoder", "encoder", "encoder-decoder"]),
    tasks=st.lists(st.sampled_from(["completion", "chat", "embedding"]), max_size=3).map(tuple),
    digest=TEXTS,
    engine_version=TEXTS,
    dtype=TEXTS,
    device_kind=TEXTS,
    quantization=TEXTS,
    kernels=TEXTS,
    max_model_len=IDS,
    vocab_size=IDS,
    num_parameters=st.integers(0, 2**64 - 1),
    eos_token_ids=TOKENS,
    embedding_size=st.none() | IDS,
    pooling=st.none() | st.sampled_from(["mean", "cls", "last"]),
    normalize=st.booleans(),
    labels=st.lists(TEXTS, max_size=3).map(tuple),
    multi_label=st.booleans(),
    uses_token_types=st.booleans(),
    adapters=st.lists(ADAPTERS, max_size=2).map(tuple),
)


def _sent(message: Any) -> Any:
    """Return the message as it arrives."""
    return type(message).FromString(message.SerializeToString())


@given(GENERATIONS)
@settings(max_examples=50, deadline=None)
def test_a_generation_request_comes_back_equal(request: GenerationRequest) -> None:
    assert convert.generation_from_proto(_sent(convert.generation_to_proto(request))) == request


@given(POOLINGS)
@settings(max_examples=50, deadline=None)
def test_a_pooling_request_comes_back_equal(request: PoolingRequest) -> None:
    assert convert.pooling_from_proto(_sent(convert.pooling_to_proto(request))) == request


@given(MODELS)
@settings(max_examples=50, deadline=None)
def test_a_models_description_comes_back_equal(info: ModelInfo) -> None:
    assert convert.model_from_proto(_sent(convert.model_to_proto(info))) == info


@given(st.lists(SEQUENCES, max_size=3), st.lists(POOLED, max_size=3))
@settings(max_examples=50, deadline=None)
def test_a_steps_outputs_come_back_equal(sequences: list[SequenceOutput], pooled: list[PooledOutput]) -> None:
    message = _sent(convert.step_to_proto(7, [*sequences, *pooled]))
    assert message.sequence_number == 7
    assert convert.step_from_proto(message) == [*sequences, *pooled]


def test_a_deadline_travels_as_the_time_that_is_left() -> None:
    generate = GenerationRequest(request_id="a", prompt_token_ids=(1,), deadline_s=time.monotonic() + 20)
    message = convert.generation_to_proto(generate)
    assert message.timeout_s == pytest.approx(20, abs=5)
    assert convert.generation_from_proto(message).deadline_s == pytest.approx(generate.deadline_s, abs=5)
    pool = PoolingRequest(request_id="a", prompt_token_ids=(1,), task="embedding", deadline_s=time.monotonic() - 20)
    assert convert.pooling_from_proto(convert.pooling_to_proto(pool)).deadline_s == pytest.approx(pool.deadline_s, abs=5)


def test_vectors_travel_as_exact_float32() -> None:
    values = tuple(float(value) for value in np.random.default_rng(0).standard_normal(384).astype(np.float32))
    (output,) = convert.step_from_proto(_sent(convert.step_to_proto(1, [PooledOutput(request_id="a", values=values)])))
    assert isinstance(output, PooledOutput)
    assert output.values == values


def test_every_field_of_the_wire_is_filled_from_the_engine_types() -> None:
    pairs: list[tuple[Any, Any, set[str], set[str]]] = [
        (pb.Sampling, SamplingParams, {"bias_token_ids", "bias_values"}, {"logit_bias"}),
        (pb.Generate, GenerationRequest, {"timeout_s"}, {"deadline_s"}),
        (pb.Pool, PoolingRequest, {"timeout_s"}, {"deadline_s"}),
        (pb.Error, OutputError, set(), set()),
        (pb.SequenceOutput, SequenceOutput, set(), set()),
        (pb.PooledOutput, PooledOutput, set(), set()),
        (pb.Model, ModelInfo, set(), set()),
    ]
    for message, dataclass, extra, absent in pairs:
        on_wire = {field.name for field in message.DESCRIPTOR.fields}
        assert on_wire - extra == set(dataclass.__dataclass_fields__) - absent
