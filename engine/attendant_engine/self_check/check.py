"""Asks a loaded engine what its checkpoint's record says, and the same again beside other requests and from the cache.

Goes the way of every request: scheduler, paged cache, kernels, in the numbers that are served. Without a record what is
left is that answers are finite and, where the kernels promise it, have the same bits in any batch.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attendant_engine.errors import CheckpointError, InvalidRequestError
from attendant_engine.self_check.record import (
    FILE_NAME,
    LOGPROB_TOLERANCES,
    VECTOR_TOLERANCES,
    Prediction,
    Record,
    VectorSample,
    read_record,
)
from attendant_engine.types import (
    EngineOutput,
    EngineRequest,
    GenerationRequest,
    ModelInfo,
    PooledOutput,
    PoolingRequest,
    SamplingParams,
    SequenceOutput,
    Task,
    TokenLogprobs,
)
from attendant_engine.warm_up import FreshEngine

_ID = "self-check"
_NUM_TOP = 20
_NUM_TOKENS = 32
_NUM_GENERATED = 4
_MORE = 5
_STRIDE = 7919  # a prime above most, so that a made-up prompt has tokens from all over the vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """What a check that passed has found: the largest difference from the record, None without one, and what was allowed."""

    difference: float | None
    tolerance: float


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What the engine computes in: the ``classes`` that its tolerances are by, and whether bits are promised."""

    classes: tuple[str, ...]
    has_same_bits: bool

    def tolerance(self, tolerances: Mapping[str, float]) -> float:
        return max(tolerances[name] for name in self.classes)


def check_engine(engine: FreshEngine, directory: Path, *, classes: Iterable[str], has_same_bits: bool) -> SelfCheck:
    """Check an engine that nobody uses yet against the record of ``directory``, and against itself.

    ``classes``: what its numbers are held in, the keys of a record's tolerances. Raises ``CheckpointError`` that says what differs.
    """
    record = read_record(directory)
    numbers = _Numbers(tuple(classes), has_same_bits)
    if record is not None:
        _check_fits(record, engine)
    if "completion" in engine.info.tasks:
        return _check_generation(engine, record, numbers)
    return _check_pooling(engine, record, numbers)


def _check_fits(record: Record, engine: FreshEngine) -> None:
    """Raise where the record is of another model."""
    info = engine.info
    task = "completion" if record.vector is None else record.vector.task
    if record.digest != info.digest:
        raise CheckpointError(
            f"{FILE_NAME} was made of weights with sha256 {record.digest:.12} and these have {info.digest:.12}: they are damaged or "
            "were replaced; download them again, or write the record anew with attendant self-check --write."
        )
    if task not in info.tasks or max(record.token_ids) >= info.vocab_size:
        raise CheckpointError(f"{FILE_NAME} is of a model of another kind; write it anew with attendant self-check --write.")


def _check_generation(engine: FreshEngine, record: Record | None, numbers: _Numbers) -> SelfCheck:
    info = engine.info
    token_ids = _made_up_prompt(info.vocab_size) if record is None else record.token_ids
    num_prompt_tokens = _NUM_TOKENS if record is None else record.num_prompt_tokens
    prompt = token_ids[: min(num_prompt_tokens, info.max_model_len - 1)]
    tolerance = numbers.tolerance(LOGPROB_TOLERANCES if record is None else record.tolerances)
    if not prompt:
        return SelfCheck(difference=None, tolerance=tolerance)
    alone = _predictions(_answers(engine, [_continue(_ID, prompt, 0)])[_ID], prompt, 0)
    found = None
    if record is not None:
        found = _compare_predictions(record.predictions, _as_recorded(alone, len(prompt), record.token_ids), tolerance)
    # From the cache as far as it holds whole blocks, and beside a shorter and a longer one.
    start = len(prompt) // 2 + 1
    longer = (*prompt[::-1], *prompt[:_MORE])[: info.max_model_len - 1]
    requests = [_continue("shorter", prompt[::-1][: start // 2 + 1], 0), _continue(_ID, prompt, start), _continue("longer", longer, 0)]
    answers = _answers(engine, requests)
    beside = _predictions(answers[_ID], prompt, start)
    if numbers.has_same_bits:
        _check_bits({position: alone[position] for position in beside}, beside)
    else:
        said = (*prompt, *(alone[position].token_id for position in sorted(alone) if position >= len(prompt)))
        expected = [_as_prediction(position, alone[position]) for position in beside]
        _compare_predictions(expected, _as_recorded(beside, len(prompt), said), tolerance)
    return SelfCheck(difference=found, tolerance=tolerance)


def _continue(name: str, prompt: Sequence[int], start: int) -> GenerationRequest:
    params = SamplingParams(
        max_tokens=_NUM_GENERATED,
        temperature=0.0,
        ignore_eos=True,
        logprobs=_NUM_TOP,
        prompt_logprobs=_NUM_TOP,
        prompt_logprobs_start=min(start, len(prompt)),
    )
    return GenerationRequest(request_id=name, prompt_token_ids=tuple(prompt), params=params)


def _predictions(outputs: Sequence[EngineOutput], prompt: Sequence[int], start: int) -> dict[int, TokenLogprobs]:
    """Return what was said at each position from ``start`` on."""
    found: dict[int, TokenLogprobs] = {}
    position = len(prompt)
    for output in outputs:
        assert isinstance(output, SequenceOutput)
        found |= {start + place: entry for place, entry in enumerate(output.prompt_logprobs or ()) if entry is not None}
        for entry in output.logprobs or ():
            found[position] = entry
            position += 1
    return found


def _as_recorded(found: Mapping[int, TokenLogprobs], num_prompt_tokens: int, token_ids: Sequence[int]) -> dict[int, TokenLogprobs]:
    """Return what was said after nothing but ``token_ids``: behind another token than theirs, nothing can be compared."""
    kept: dict[int, TokenLogprobs] = {}
    for position in sorted(found):
        kept[position] = found[position]
        if position >= num_prompt_tokens and (position >= len(token_ids) or found[position].token_id != token_ids[position]):
            break
    return kept


def _as_prediction(position: int, entry: TokenLogprobs) -> Prediction:
    best = entry.top[:5]
    return Prediction(position=position, token_ids=tuple(token for token, _ in best), logprobs=tuple(value for _, value in best))


def _compare_predictions(expected: Iterable[Prediction], found: Mapping[int, TokenLogprobs], tolerance: float) -> float:
    """Return the largest difference in nats. Raises ``CheckpointError`` where it is beyond ``tolerance``."""
    worst, text = 0.0, ""
    for prediction in expected:
        entry = found.get(prediction.position)
        if entry is None:
            continue
        values = dict(entry.top) | {entry.token_id: entry.logprob}
        least = min(values.values())  # of what was asked for; a token that is not among them has no more
        for token_id, logprob in zip(prediction.token_ids, prediction.logprobs, strict=True):
            got = values.get(token_id, least)
            if not abs(got - logprob) <= worst:
                worst = abs(got - logprob)
                text = f"token {token_id} at position {prediction.position} should have log-probability {logprob:.4f} and has {got:.4f}"
    if not worst <= tolerance:
        raise _wrong(text, tolerance)
    return worst


def _check_bits(alone: Mapping[int, TokenLogprobs], beside: Mapping[int, TokenLogprobs]) -> None:
    for position, entry in beside.items():
        before = alone[position]
        if entry != before:
            said = f"token {before.token_id} at position {position} has log-probability {before.logprob!r} alone and token {entry.token_id}"
            raise _other_bits(f"{said} has {entry.logprob!r}")


def _check_pooling(engine: FreshEngine, record: Record | None, numbers: _Numbers) -> SelfCheck:
    info = engine.info
    token_ids = _made_up_prompt(info.vocab_size)[:_NUM_TOKENS] if record is None else record.token_ids
    tolerance = numbers.tolerance(VECTOR_TOLERANCES if record is None else record.tolerances)
    found = None
    for task in info.tasks:
        if task != "embedding" and task != "classification":
            continue
        text = token_ids[: info.max_model_len]
        alone = _values(_answers(engine, [_pool(_ID, text, task, info)])[_ID])
        if record is not None and record.vector is not None and record.vector.task == task and len(text) == len(token_ids):
            found = _compare_vector(record.vector, alone, tolerance)
        longer = (*text[::-1], *text[:_MORE])[: info.max_model_len]
        requests = [
            _pool("shorter", text[::-1][: len(text) // 2 + 1], task, info),
            _pool(_ID, text, task, info),
            _pool("longer", longer, task, info),
        ]
        requests += [_pool(f"adapter {adapter.name}", text, adapter.tasks[0], info, adapter.name) for adapter in info.adapters]
        beside = _values(_answers(engine, requests)[_ID])
        if not numbers.has_same_bits:
            _compare_vector(VectorSample(task=task, components=tuple(range(len(alone))), values=alone), beside, tolerance)
        elif beside != alone:
            place = next(place for place, value in enumerate(beside) if value != alone[place])
            raise _other_bits(f"component {place} of the {task} is {alone[place]!r} alone and {beside[place]!r}")
    return SelfCheck(difference=found, tolerance=tolerance)


def _pool(name: str, token_ids: Sequence[int], task: Task, info: ModelInfo, adapter: str | None = None) -> PoolingRequest:
    return PoolingRequest(
        request_id=name,
        prompt_token_ids=tuple(token_ids),
        task="embedding" if task == "embedding" else "classification",
        pooling=info.pooling or "mean",
        normalize=True,
        adapter=adapter,
    )


def _values(outputs: Sequence[EngineOutput]) -> tuple[float, ...]:
    output = outputs[-1]
    assert isinstance(output, PooledOutput)
    return output.values


def _compare_vector(expected: VectorSample, values: Sequence[float], tolerance: float) -> float:
    """Return the difference as a part of the length. Raises ``CheckpointError`` where it is beyond ``tolerance``."""
    if max(expected.components) >= len(values):
        raise CheckpointError(f"{FILE_NAME} has more components than the model's answer; write it anew with attendant self-check --write.")
    got = [values[component] for component in expected.components]
    length = math.sqrt(math.fsum(value * value for value in expected.values))
    # Logits near zero are as good as zero: their length is at least that of ones.
    length = max(length, math.sqrt(len(got)) if expected.task == "classification" else 0.0, 1e-12)
    differences = [abs(one - other) for one, other in zip(got, expected.values, strict=True)]
    difference = math.sqrt(math.fsum(value * value for value in differences)) / length
    if not difference <= tolerance:
        place = max(range(len(got)), key=differences.__getitem__)
        said = (
            f"component {expected.components[place]} of the {expected.task} should be {expected.values[place]:.6f} and is {got[place]:.6f}"
        )
        raise _wrong(f"{said}, and in all the answer is off by {difference:.2g} of its length", tolerance)
    return difference


def _wrong(text: str, tolerance: float) -> CheckpointError:
    return CheckpointError(
        f"The self-check failed: {text}, where {tolerance:g} is tolerated; this build computes this model wrongly here, or its "
        f"configuration was changed after {FILE_NAME} was made."
    )


def _other_bits(text: str) -> CheckpointError:
    return CheckpointError(
        f"The self-check failed: {text} beside other requests, where the same bits are promised; this build computes wrongly here."
    )


def _answers(engine: FreshEngine, requests: Sequence[EngineRequest]) -> dict[str, list[EngineOutput]]:
    """Serve ``requests`` at a time and return each one's outputs. Raises ``CheckpointError`` for one that fails: it is not finite, say."""
    outputs: dict[str, list[EngineOutput]] = {request.request_id: [] for request in requests}
    try:
        for request in requests:
            engine.add_request(request, is_let_in=True)
    except InvalidRequestError as error:
        raise CheckpointError(f"The self-check cannot be asked for: {error.message}") from None
    while engine.has_work:
        for output in engine.step().outputs:
            if output.error is not None:
                raise CheckpointError(f"The self-check failed: {output.error.message}")
            outputs[output.request_id].append(output)
    return outputs


def _made_up_prompt(vocab_size: int) -> tuple[int, ...]:
    return tuple((1 + _STRIDE * place) % vocab_size for place in range(_NUM_TOKENS))
