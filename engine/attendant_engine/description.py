"""Says what a loaded model is and does, for gateways that validate, tokenise for and describe it."""

from pathlib import Path

from attendant_engine import __version__
from attendant_engine.json_fields import Fields, read_optional_fields
from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.models.base import LoadedAdapter, LoadedModel
from attendant_engine.plan import Plan
from attendant_engine.tokenizers.chat_template import load_chat_templates
from attendant_engine.types import AdapterInfo, ModelInfo, Task

_SETTINGS_FILE = "tokenizer_config.json"


def describe_model(model: LoadedModel, plan: Plan, *, path: Path, name: str) -> ModelInfo:
    """Return the ``ModelInfo`` of a checkpoint loaded from ``path`` and served as ``name``; "chat" needs its own template."""
    config, head = model.config, model.pooling_head
    return ModelInfo(
        name=name,
        path=str(path),
        family=config.family,
        kind=config.kind,
        tasks=_tasks(model, path),
        digest=model.digest,
        engine_version=__version__,
        dtype=str(model.dtype).removeprefix("torch."),
        device_kind=model.device.type,
        max_model_len=plan.max_model_len,
        vocab_size=config.vocab_size,
        num_parameters=model.num_parameters,
        eos_token_ids=config.eos_token_ids,
        embedding_size=None if head is None else config.hidden_size,
        pooling=None if head is None else head.default_pooling,
        normalize=head is not None and head.default_normalize,
        labels=config.labels,
        multi_label=config.multi_label,
        uses_token_types=config.type_vocab_size > 0,
        quantization=plan.config.quantization,
        kernels=_kernels(plan),
        adapters=tuple(_describe_adapter(adapter) for adapter in model.adapters),
    )


def _describe_adapter(adapter: LoadedAdapter) -> AdapterInfo:
    tasks: list[Task] = []
    if adapter.pooling_head is not None:
        tasks.append("embedding")
    if adapter.classification_head is not None:
        tasks.append("classification")
    return AdapterInfo(
        name=adapter.name,
        tasks=tuple(tasks),
        digest=adapter.digest,
        rank=adapter.rank,
        num_parameters=adapter.num_parameters,
        labels=adapter.labels,
        multi_label=adapter.multi_label,
    )


def _kernels(plan: Plan) -> str:
    """Return what computes, for the bits of an answer depend on it: the native kernels' instruction set, else the backend.

    A cache of another type than the activations is named too, and how many ranks' parts make a sum.
    """
    backend, cache_dtype = plan.config.attention_backend, plan.cache_dtype
    library = load_library() if backend == "native" else None
    name = backend if library is None else library.instruction_set.name.lower()
    name += "" if cache_dtype is plan.dtype else f", {str(cache_dtype).removeprefix('torch.')} cache"
    return name if plan.config.tensor_parallel == 1 else f"{name}, {plan.config.tensor_parallel} ranks"


def _tasks(model: LoadedModel, path: Path) -> tuple[Task, ...]:
    tasks: list[Task] = []
    if model.lm_head is not None:
        tasks.append("completion")
        settings = read_optional_fields(path, _SETTINGS_FILE) or Fields(_SETTINGS_FILE, {})
        if load_chat_templates(path, settings).is_present:
            tasks.append("chat")
        tasks.append("few-shot")
    if model.pooling_head is not None:
        tasks.append("embedding")
    if model.classification_head is not None:
        tasks.append("classification")
    return tuple(tasks)
