"""Answers a request that cannot be served before it takes a place in the queue: each check names value, bound and fix.

A gateway checks its wire's types and ranges; these are the bounds that only the engine knows, and those whose breach
would harm other requests.
"""

import math
from collections.abc import Iterable

from attendant_engine.errors import ContextLengthError, InvalidRequestError, UnsupportedError
from attendant_engine.models.base import LoadedAdapter, LoadedModel
from attendant_engine.types import GenerationRequest, PoolingRequest, SamplingParams

MAX_SEQUENCES = 128
"""Sequences of one request; OpenAI's bound on n. All of them draw their first token in one step."""


class RequestValidator:
    """Checks requests against one model and one cache; ``max_cache_tokens`` is what the whole cache can hold."""

    def __init__(self, model: LoadedModel, *, max_model_len: int, max_cache_tokens: int) -> None:
        self._model = model
        self._vocab_size = model.config.vocab_size
        self._max_model_len = max_model_len
        self._max_cache_tokens = max_cache_tokens

    def max_new_tokens(self, request: GenerationRequest) -> int:
        """Return the tokens that ``request`` may generate, clipped to the context; raise a kind of ``InvalidRequestError``."""
        if self._model.lm_head is None:
            raise UnsupportedError("This model does not generate text; ask it for an embedding or a classification.", param="model")
        params = request.params
        num_prompt_tokens = len(request.prompt_token_ids)
        self._check_token_ids(request.prompt_token_ids, "prompt")
        self._check_params(params, num_prompt_tokens)
        _check_range("n", request.n, 1, MAX_SEQUENCES)
        # A prompt that is only scored may fill the context; one that is continued needs room for a token.
        self._check_length(num_prompt_tokens + (1 if params.max_tokens > 0 else 0), num_prompt_tokens)
        max_tokens = min(params.max_tokens, self._max_model_len - num_prompt_tokens)
        if request.output_token_ids or request.index:
            self._check_continuation(request, max_tokens)
        if num_prompt_tokens + max_tokens > self._max_cache_tokens:
            raise ContextLengthError(
                f"The prompt has {num_prompt_tokens} tokens and max_tokens is {max_tokens}; the key/value cache of this server holds "
                f"{self._max_cache_tokens} in all. Shorten the prompt, lower max_tokens or serve with a larger --kv-cache-memory.",
                param="prompt",
            )
        return max_tokens

    def _check_continuation(self, request: GenerationRequest, max_tokens: int) -> None:
        _check_range("index", request.index, 0, MAX_SEQUENCES - request.n)
        num_output_tokens = len(request.output_token_ids)
        if request.output_token_ids:
            self._check_token_ids(request.output_token_ids, "output_token_ids")
            _check_range("n", request.n, 1, 1)
        if num_output_tokens >= max_tokens:
            raise InvalidRequestError(
                f"{num_output_tokens} tokens have been generated already and max_tokens is {max_tokens}; nothing is left to do.",
                param="output_token_ids",
            )

    def check_pooling(self, request: PoolingRequest) -> None:
        """Raise a kind of ``InvalidRequestError`` for a pooling request that this model cannot answer."""
        heads = self._heads(request.adapter)
        if request.task == "embedding":
            if heads.pooling_head is None:
                raise UnsupportedError("This model gives no embeddings.", param="model")
            if request.pooling is None and heads.pooling_head.default_pooling is None:
                raise InvalidRequestError("This model names no pooling of its own; set pooling to mean, cls or last.", param="pooling")
        elif heads.classification_head is None:
            raise UnsupportedError("This model does not classify.", param="model")
        num_tokens = len(request.prompt_token_ids)
        self._check_token_ids(request.prompt_token_ids, "input")
        self._check_length(num_tokens, num_tokens)
        if request.token_type_ids is not None:
            self._check_token_types(request.token_type_ids, num_tokens)

    def _heads(self, adapter_name: str | None) -> LoadedModel | LoadedAdapter:
        if adapter_name is None:
            return self._model
        for adapter in self._model.adapters:
            if adapter.name == adapter_name:
                return adapter
        known = ", ".join(adapter.name for adapter in self._model.adapters) or "none"
        raise InvalidRequestError(f"There is no adapter {adapter_name!r:.80}; this model has {known}.", param="model")

    def _check_token_ids(self, token_ids: Iterable[int], param: str) -> None:
        least, most = min(token_ids, default=None), max(token_ids, default=None)
        if least is None or most is None:
            raise InvalidRequestError("The prompt has no tokens; it needs at least 1.", param=param)
        for token_id in (least, most):
            self._check_token_id(token_id, param)

    def _check_token_id(self, token_id: int, param: str) -> None:
        if not 0 <= token_id < self._vocab_size:
            raise InvalidRequestError(
                f"Token id {token_id} is outside the vocabulary; this model has ids 0 to {self._vocab_size - 1}.", param=param
            )

    def _check_length(self, num_needed: int, num_tokens: int) -> None:
        if num_needed > self._max_model_len:
            room = " and needs room for one more" if num_needed > num_tokens else ""
            raise ContextLengthError(
                f"The prompt has {num_tokens} tokens{room}; this model takes at most {self._max_model_len}. Shorten the prompt.",
                param="prompt",
            )

    def _check_token_types(self, token_type_ids: Iterable[int], num_tokens: int) -> None:
        types = list(token_type_ids)
        bound = self._model.config.type_vocab_size
        if bound == 0:
            raise UnsupportedError("This model has no token types; leave token_type_ids out.", param="token_type_ids")
        if len(types) != num_tokens:
            raise InvalidRequestError(
                f"There are {len(types)} token_type_ids for {num_tokens} tokens; give one a token.", param="token_type_ids"
            )
        if not all(0 <= token_type < bound for token_type in types):
            raise InvalidRequestError(f"token_type_ids must be from 0 to {bound - 1}.", param="token_type_ids")

    def _check_params(self, params: SamplingParams, num_prompt_tokens: int) -> None:
        _check_range("max_tokens", params.max_tokens, 0)
        _check_range("temperature", params.temperature, 0.0)
        _check_range("top_k", params.top_k, 0)
        _check_range("top_p", params.top_p, 0.0, 1.0)
        _check_range("min_p", params.min_p, 0.0, 1.0)
        _check_range("repetition_penalty", params.repetition_penalty, 0.0)
        _check_range("presence_penalty", params.presence_penalty, -math.inf)
        _check_range("frequency_penalty", params.frequency_penalty, -math.inf)
        _check_range("min_tokens", params.min_tokens, 0)
        _check_range("logprobs", params.logprobs or 0, 0)
        _check_range("prompt_logprobs", params.prompt_logprobs or 0, 0)
        _check_range("prompt_logprobs_start", params.prompt_logprobs_start, 0, num_prompt_tokens)
        if params.top_p == 0.0 or params.repetition_penalty == 0.0:
            param = "top_p" if params.top_p == 0.0 else "repetition_penalty"
            raise InvalidRequestError(f"{param} is 0; it must be greater than 0.", param=param)
        for token_id, bias in params.logit_bias:
            self._check_token_id(token_id, "logit_bias")
            _check_range("logit_bias", bias, -math.inf)
        for token_id in params.stop_token_ids:
            self._check_token_id(token_id, "stop_token_ids")


def _check_range(param: str, value: float, least: float, most: float = math.inf) -> None:
    if math.isfinite(value) and least <= value <= most:
        return
    bounds = "finite" if least == -math.inf else f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    raise InvalidRequestError(f"{param} is {value}; it must be {bounds}.", param=param)
