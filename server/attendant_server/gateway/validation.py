"""Checks that need to know the model: what it does, how long its context is, which token ids it has.

Types and ranges were checked before (``requests``). Every error names the value, the bound and the fix.
"""

from collections.abc import Collection, Mapping, Sequence

from attendant_engine.types import ModelInfo, Task
from attendant_server.errors import ServingError
from attendant_server.violations import did_you_mean, show_value

MAX_SEQUENCES = 16_384
"""Most sequences of one request: prompts times best_of, or queries times labels. Beyond, several requests share better."""


def model_not_found(name: str, known: Collection[str]) -> ServingError:
    """Return the error for a model that is not served."""
    hint = did_you_mean(name, known) or (f"; this server has {', '.join(sorted(known))}" if known else "; this server has no model")
    return ServingError("model_not_found", f"there is no model {show_value(name)} here{hint}", param="model")


def check_task(info: ModelInfo, name: str, task: Task) -> None:
    """Raise when the model does not do ``task``."""
    if task not in info.tasks:
        does = f"it does {', '.join(info.tasks)}" if info.tasks else "it does no task that this server knows"
        raise ServingError(
            "unsupported_parameter", f"model '{name}' does not do {task}; {does}; choose another model or another task", param="model"
        )


def check_token_ids(token_ids: Sequence[int], *, vocab_size: int, param: str) -> None:
    """Raise for an empty list and for an id outside [0, vocab_size)."""
    if not token_ids:
        raise ServingError("invalid_value", f"'{param}' has no tokens; give at least one token id", param=param)
    for extreme in (min(token_ids), max(token_ids)):
        if not 0 <= extreme < vocab_size:
            raise ServingError(
                "invalid_value",
                f"token id {show_value(extreme)} of '{param}' is outside the vocabulary; this model has ids 0 to {vocab_size - 1}; "
                "were they made by another model's tokenizer?",
                param=param,
            )


def check_length(num_tokens: int, info: ModelInfo, *, param: str, generates: bool) -> None:
    """Raise context_length_exceeded for a prompt that does not fit, with room for one more token if it is to be continued."""
    if num_tokens > info.max_model_len:
        raise ServingError(
            "context_length_exceeded",
            f"the prompt has {num_tokens} tokens; this model takes at most {info.max_model_len}; shorten it",
            param=param,
        )
    if generates and num_tokens == info.max_model_len:
        raise ServingError(
            "context_length_exceeded",
            f"the prompt has {num_tokens} tokens and leaves no room to generate; this model takes at most {info.max_model_len}, "
            "prompt and completion together; shorten it",
            param=param,
        )


def check_num_sequences(num_inputs: int, num_each: int, *, what: str, param: str) -> None:
    """Raise when a request asks for more than ``MAX_SEQUENCES``; ``what`` says what is multiplied."""
    if num_inputs * num_each > MAX_SEQUENCES:
        raise ServingError(
            "invalid_value",
            f"the request asks for {num_inputs * num_each} sequences ({what}); at most {MAX_SEQUENCES} are taken; send several requests",
            param=param,
        )


def num_sequences_of(*, n: int, best_of: int | None, streams: bool) -> int:
    """Return how many sequences a prompt gets. Raises when ``best_of`` is below n, or above it in a stream."""
    if best_of is None:
        return n
    if best_of < n:
        raise ServingError("invalid_value", f"'best_of' is {best_of} and 'n' is {n}; best_of must be at least n", param="best_of")
    if streams and best_of > n:
        raise ServingError(
            "unsupported_parameter",
            f"'best_of' is {best_of} and 'n' is {n}; the best can only be known at the end, so a stream needs best_of equal to n",
            param="best_of",
        )
    return best_of


def parse_logit_bias(logit_bias: Mapping[str, float], *, vocab_size: int) -> tuple[tuple[int, float], ...]:
    """Return (token id, bias) pairs. Raises for a key that is no id of the vocabulary."""
    parsed: dict[int, float] = {}
    for key, bias in logit_bias.items():
        # int() would take "1_0", " 1" and digits of other scripts.
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise ServingError(
                "invalid_value", f"'logit_bias' has the key {show_value(key)}; keys are token ids, for example \"42\"", param="logit_bias"
            )
        check_token_ids((int(key),), vocab_size=vocab_size, param="logit_bias")
        parsed[int(key)] = bias
    return tuple(parsed.items())


def check_dimensions(dimensions: int | None, info: ModelInfo) -> None:
    """Raise when more dimensions are asked for than the model has."""
    if dimensions is not None and info.embedding_size is not None and dimensions > info.embedding_size:
        raise ServingError(
            "invalid_value",
            f"'dimensions' is {dimensions}; this model's vectors have {info.embedding_size}; ask for at most that many",
            param="dimensions",
        )
