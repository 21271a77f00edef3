"""Ours, in the main virtual environment: the whole engine, with its scheduler and its paged cache."""

import dataclasses
import time
from typing import Any, Literal

from attendant_engine.config import EngineConfig
from attendant_engine.engine import load_engine
from attendant_engine.types import GenerationRequest, PooledOutput, PoolingRequest, SamplingParams, SequenceOutput
from benchmarks.peers.engines.base import Answer, Setup, UnsupportedError
from benchmarks.peers.shapes import SHAPES, ModelName

_CACHE_SLACK_BLOCKS = 2


class Attendant:
    """One engine; it decodes or encodes, as its model does."""

    def __init__(self, setup: Setup, *, kv_cache_dtype: Literal["auto", "int8"] = "auto") -> None:
        config = dataclasses.replace(engine_config(setup), kv_cache_dtype=kv_cache_dtype)
        self._engine = load_engine(setup.path, setup.model, config)
        self._num_requests = 0

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[Answer]:
        """Answer all prompts, which arrive at once."""
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        answers: dict[str, Answer] = {}
        for prompt in prompts:
            answers[self._next_id()] = Answer()
            self._engine.add_request(GenerationRequest(request_id=str(self._num_requests), prompt_token_ids=prompt, params=params))
        while self._engine.has_work:
            outputs = self._engine.step().outputs
            now_s = time.perf_counter()
            for output in outputs:
                if output.error is not None:
                    raise RuntimeError(output.error.message)
                if isinstance(output, SequenceOutput):
                    for token_id in output.token_ids:
                        answers[output.request_id].add(token_id, now_s)
        return list(answers.values())

    def encode(self, batch: list[list[int]]) -> list[list[float]]:
        """Return vectors, one a text."""
        vectors: dict[str, list[float]] = {}
        for text in batch:
            request_id = self._next_id()
            vectors[request_id] = []
            self._engine.add_request(
                PoolingRequest(request_id=request_id, prompt_token_ids=text, task="embedding", pooling="mean", normalize=True)
            )
        while self._engine.has_work:
            for output in self._engine.step().outputs:
                if output.error is not None:
                    raise RuntimeError(output.error.message)
                if isinstance(output, PooledOutput):
                    vectors[output.request_id] = list(output.values)
        return list(vectors.values())

    def _next_id(self) -> str:
        self._num_requests += 1
        return str(self._num_requests)


def engine_config(setup: Setup) -> EngineConfig:
    """Return an operator's configuration for the load: the class of precision, and a cache with room for it.

    Without guesses: a random model soon repeats itself, and an n-gram table would look better than it is on any text.

    Raises ``UnsupportedError`` for a class that this build of the engine does not have.
    """
    shape = SHAPES[_model_name(setup)]
    dtype = "float32" if setup.precision == "float32" else "bfloat16"
    fields: dict[str, Any] = {"device": "cpu", "dtype": dtype, "max_num_seqs": max(setup.load.max_sequences, 1), "speculation": "none"}
    if setup.precision in ("int8", "int4"):
        if "quantization" not in {field.name for field in dataclasses.fields(EngineConfig)}:
            raise UnsupportedError(f"this build of the engine has no {setup.precision}")
        fields["quantization"] = setup.precision
    if shape.kind == "decoder":
        block_size = EngineConfig().block_size
        num_blocks = setup.load.total_tokens // block_size + (1 + _CACHE_SLACK_BLOCKS) * setup.load.max_sequences
        token_bytes = 2 * shape.num_layers * shape.kv_width * (4 if dtype == "float32" else 2)
        fields["kv_cache_memory_bytes"] = num_blocks * block_size * token_bytes
    return EngineConfig(**fields)


def load(setup: Setup) -> Attendant:
    """Load the checkpoint."""
    return Attendant(setup)


def _model_name(setup: Setup) -> ModelName:
    return next(name for name in SHAPES if name == setup.model)
