"""Embeddings and classification: one vector an input, from the engine's pooling requests."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from attendant_engine.tokenizers import Tokenizer
from attendant_engine.types import ModelInfo, PooledOutput, PoolingRequest
from attendant_server.errors import ServingError
from attendant_server.gateway import validation
from attendant_server.gateway.calls import ActiveCall
from attendant_server.gateway.prompts import encode_prompts, param_at
from attendant_server.gateway.requests import ClassifyRequest, EmbedRequest
from attendant_server.gateway.results import Classification, ClassifyResult, EmbedResult, Receipt, Usage
from attendant_server.gateway.sequence_reader import as_raised
from attendant_server.gateway.served_model import ServedModel
from attendant_server.gateway.toolbox import Toolbox

MAX_IN_FLIGHT = 128
"""Inputs of one call on engines at once: enough to fill batches, and room for others beside a long list."""


class Pooling:
    """The two tasks that turn an input into numbers."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox

    async def embed(self, model: ServedModel, request: EmbedRequest, call: ActiveCall) -> EmbedResult:
        """Return one vector an input."""
        info = model.require_info()
        validation.check_task(info, model.name, "embedding")
        validation.check_dimensions(request.dimensions, info)
        if request.pooling is None and info.pooling is None:
            raise ServingError(
                "invalid_value", f"model '{model.name}' names no pooling of its own; set pooling to mean, cls or last", param="pooling"
            )
        inputs = await self._toolbox.text_pool.run(
            call.deadline, encode_prompts, model.tokenizer, request.inputs, vocab_size=info.vocab_size, param="input", with_text=False
        )
        requests = [
            PoolingRequest(
                request_id=self._toolbox.request_ids.make(),
                prompt_token_ids=each.token_ids,
                task="embedding",
                pooling=request.pooling,
                normalize=request.normalize,
                adapter=model.adapter,
            )
            for each in inputs
        ]
        vectors, usage = await self._run(model, info, requests, call, param="input")
        is_normalized = info.normalize if request.normalize is None else request.normalize
        return EmbedResult(
            id=call.context.request_id,
            model=model.name,
            vectors=tuple(cut(vector, request.dimensions, normalize=is_normalized) for vector in vectors),
            usage=usage,
            receipt=Receipt.of(info),
        )

    async def classify(self, model: ServedModel, request: ClassifyRequest, call: ActiveCall) -> ClassifyResult:
        """Return one judgement an input."""
        info = model.require_info()
        validation.check_task(info, model.name, "classification")
        param, texts = ("pairs", request.pairs) if request.pairs is not None else ("input", _texts(request.input))
        encodings = await self._toolbox.text_pool.run(call.deadline, encode_for_classifier, model.tokenizer, texts or ())
        requests = [
            PoolingRequest(
                request_id=self._toolbox.request_ids.make(),
                prompt_token_ids=ids,
                task="classification",
                token_type_ids=type_ids if info.uses_token_types else None,
                adapter=model.adapter,
            )
            for ids, type_ids in encodings
        ]
        logits, usage = await self._run(model, info, requests, call, param=param)
        is_multi_label = info.multi_label if request.multi_label is None else request.multi_label
        return ClassifyResult(
            id=call.context.request_id,
            model=model.name,
            data=tuple(judge(idx, row, info.labels, multi_label=is_multi_label) for idx, row in enumerate(logits)),
            usage=usage,
            receipt=Receipt.of(info),
        )

    async def _run(
        self, model: ServedModel, info: ModelInfo, requests: Sequence[PoolingRequest], call: ActiveCall, *, param: str
    ) -> tuple[list[tuple[float, ...]], Usage]:
        """Send the requests, some at a time, and return their vectors in order."""
        for idx, request in enumerate(requests):
            where = param_at(param, idx, len(requests))
            validation.check_token_ids(request.prompt_token_ids, vocab_size=info.vocab_size, param=where)
            validation.check_length(len(request.prompt_token_ids), info, param=where, generates=False)
        call.usage = Usage(prompt_tokens=sum(len(request.prompt_token_ids) for request in requests))
        in_flight = self._toolbox.open_flight(model, call)
        values: dict[str, tuple[float, ...]] = {}
        num_sent = 0
        while len(values) < len(requests):
            while num_sent < len(requests) and in_flight.num_open < MAX_IN_FLIGHT:
                in_flight.submit(requests[num_sent])
                num_sent += 1
            for output in await in_flight.take(call.deadline):
                assert isinstance(output, PooledOutput), "a pooling request was answered by tokens"
                if output.error is not None:
                    raise as_raised(output.error)
                values[output.request_id] = output.values
        return [values[request.request_id] for request in requests], call.usage


def encode_for_classifier(tokenizer: Tokenizer, inputs: Sequence[str | Sequence[str]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Tokenise texts, or pairs of texts as one input each; return ids and segment ids."""
    found = []
    for each in inputs:
        first, second = (each, None) if isinstance(each, str) else (each[0], each[1])
        encoding = tokenizer.encode(first, pair=second, add_special_tokens=True)
        found.append((encoding.ids, encoding.type_ids))
    return found


def cut(values: Sequence[float], dimensions: int | None, *, normalize: bool) -> tuple[float, ...]:
    """Keep the first ``dimensions`` values (Kusupati et al. 2022) and, for unit vectors, bring them back to length one."""
    if dimensions is None or dimensions >= len(values):
        return tuple(values)
    vector: npt.NDArray[np.float32] = np.asarray(values[:dimensions], dtype=np.float32)
    length = float(np.linalg.norm(vector))
    return tuple((vector / np.float32(length) if normalize and length > 0 else vector).tolist())


def judge(idx: int, logits: Sequence[float], labels: Sequence[str], *, multi_label: bool) -> Classification:
    """Turn logits into probabilities: a sigmoid a label, or one softmax over all."""
    row: npt.NDArray[np.float64] = np.asarray(logits, dtype=np.float64)
    # Shifted and clipped so that no logit of a finite model overflows.
    weights = np.exp(row - row.max())
    probs = 1 / (1 + np.exp(-np.clip(row, -700, 700))) if multi_label else weights / weights.sum()
    names = labels if len(labels) == len(row) else [f"LABEL_{label_idx}" for label_idx in range(len(row))]
    best = int(np.argmax(row))
    return Classification(
        index=idx, label=names[best], score=float(probs[best]), probs=tuple(zip(names, (float(prob) for prob in probs), strict=True))
    )


def _texts(text: str | list[str] | None) -> list[str]:
    return [text] if isinstance(text, str) else list(text or ())
