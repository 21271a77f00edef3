"""A checkpoint's ``config.json`` as one ``ModelConfig``: the only place that knows its keys.

Options that would change the numbers and are not implemented are refused by name; keys that cannot (dropout, initialisers)
are ignored. Key names and defaults follow Hugging Face's configuration classes.
"""

from dataclasses import replace

from attendant_engine.config import Family, HeadKind, ModelConfig
from attendant_engine.json_fields import Fields
from attendant_engine.layers.activations import ACTIVATIONS
from attendant_engine.layers.rotary import SCALINGS
from attendant_engine.models.registry import ARCHITECTURES, FAMILIES
from attendant_engine.weights.sentence_transformers import EmbeddingRecipe

_DTYPES = ("float32", "float16", "bfloat16")
_MAX_LAYERS = 10_000
"""Each one is laid out before a weight is looked at, so a number without sense must not keep the server busy for hours."""
_LLAMA3_PARAMETERS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def parse_model_config(fields: Fields, generation: Fields | None, recipe: EmbeddingRecipe | None) -> ModelConfig:
    """Return the one description of a checkpoint that the engine uses.

    ``generation`` is ``generation_config.json``, whose end tokens win; ``recipe`` makes it an embedding model.
    Raises ``CheckpointError`` for what is unknown, impossible or not implemented.
    """
    family, head = _architecture(fields, recipe)
    if "quantization_config" in fields:
        raise fields.error("quantization_config is not supported; use a float32, float16 or bfloat16 checkpoint")
    config = {"gpt2": _gpt2, "llama": _llama, "bert": _bert}[family](fields, head)
    _check(fields, config)
    config = replace(
        config,
        pad_token_id=fields.optional_integer("pad_token_id"),
        bos_token_id=fields.optional_integer("bos_token_id"),
        eos_token_ids=_eos_token_ids(fields, generation),
        checkpoint_dtype=_dtype(fields),
    )
    if head == "sequence_classification":
        labels = read_labels(fields)
        config = replace(config, labels=labels, multi_label=is_multi_label(fields, len(labels)))
    if recipe is not None:
        config = replace(config, pooling=recipe.pooling, normalize=recipe.normalize, max_sequence_length=recipe.max_sequence_length)
    return config


def _architecture(fields: Fields, recipe: EmbeddingRecipe | None) -> tuple[Family, HeadKind]:
    model_type = fields.get("model_type")
    if recipe is not None and model_type in FAMILIES:
        return model_type, "embedding"
    listed = fields.get("architectures")
    name = listed[0] if isinstance(listed, list) and len(listed) == 1 else None
    if not isinstance(name, str):
        raise fields.error("architectures must name exactly one architecture, such as LlamaForCausalLM")
    if name not in ARCHITECTURES:
        raise fields.error(f"architecture {name:.80} is not supported; supported are {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name]


def _gpt2(fields: Fields, head: HeadKind) -> ModelConfig:
    _refuse(fields, "add_cross_attention", False)
    hidden_size = fields.integer("n_embd", 768)
    num_heads = fields.integer("n_head", 12)
    return ModelConfig(
        family="gpt2",
        head=head,
        kind="decoder",
        vocab_size=fields.integer("vocab_size", 50257),
        hidden_size=hidden_size,
        num_layers=fields.integer("n_layer", 12, maximum=_MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=_head_dim(fields, hidden_size, num_heads),
        intermediate_size=fields.integer("n_inner", 4 * hidden_size),
        max_position_embeddings=fields.integer("n_positions", 1024),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        activation=fields.text("activation_function", "gelu_new"),
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
        attention_bias=True,
        mlp_bias=True,
        scale_attn_weights=fields.flag("scale_attn_weights", True),
        scale_attn_by_inverse_layer_idx=fields.flag("scale_attn_by_inverse_layer_idx", False),
    )


def _llama(fields: Fields, head: HeadKind) -> ModelConfig:
    _refuse(fields, "sliding_window", None)
    hidden_size = fields.integer("hidden_size", 4096)
    num_heads = fields.integer("num_attention_heads", 32)
    rope_theta, rope_scaling = _rope(fields)
    return ModelConfig(
        family="llama",
        head=head,
        kind="decoder",
        vocab_size=fields.integer("vocab_size", 32000),
        hidden_size=hidden_size,
        num_layers=fields.integer("num_hidden_layers", 32, maximum=_MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads),
        head_dim=fields.integer("head_dim") if "head_dim" in fields else _head_dim(fields, hidden_size, num_heads),
        intermediate_size=fields.integer("intermediate_size", 11008),
        max_position_embeddings=fields.integer("max_position_embeddings", 2048),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        activation=fields.text("hidden_act", "silu"),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        attention_bias=fields.flag("attention_bias", False),
        mlp_bias=fields.flag("mlp_bias", False),
    )


def _bert(fields: Fields, head: HeadKind) -> ModelConfig:
    _refuse(fields, "position_embedding_type", "absolute")
    _refuse(fields, "is_decoder", False)
    _refuse(fields, "add_cross_attention", False)
    hidden_size = fields.integer("hidden_size", 768)
    num_heads = fields.integer("num_attention_heads", 12)
    return ModelConfig(
        family="bert",
        head=head,
        kind="encoder",
        vocab_size=fields.integer("vocab_size", 30522),
        hidden_size=hidden_size,
        num_layers=fields.integer("num_hidden_layers", 12, maximum=_MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=_head_dim(fields, hidden_size, num_heads),
        intermediate_size=fields.integer("intermediate_size", 3072),
        max_position_embeddings=fields.integer("max_position_embeddings", 512),
        norm_eps=fields.number("layer_norm_eps", 1e-12),
        activation=fields.text("hidden_act", "gelu"),
        attention_bias=True,
        mlp_bias=True,
        type_vocab_size=fields.integer("type_vocab_size", 2),
    )


def _refuse(fields: Fields, key: str, supported: object) -> None:
    if key in fields and fields.get(key) != supported:
        raise fields.error(f"{key} {fields.get(key)!r:.40} is not supported")


def _head_dim(fields: Fields, hidden_size: int, num_heads: int) -> int:
    if hidden_size % num_heads:
        raise fields.error(f"{num_heads} attention heads do not divide the hidden size of {hidden_size}")
    return hidden_size // num_heads


def _check(fields: Fields, config: ModelConfig) -> None:
    if config.num_heads % config.num_kv_heads:
        raise fields.error(f"{config.num_kv_heads} key/value heads do not divide the {config.num_heads} query heads")
    if config.rope_theta is not None and config.head_dim % 2:
        raise fields.error(f"rotary positions need an even head size, not {config.head_dim}")
    if config.activation not in ACTIVATIONS:
        raise fields.error(f"activation {config.activation!r:.40} is not supported; supported are {', '.join(ACTIVATIONS)}")
    if config.norm_eps <= 0:
        raise fields.error(f"the norm's epsilon must be above zero, not {config.norm_eps}")


def _rope(fields: Fields) -> tuple[float, tuple[tuple[str, float | str], ...]]:
    """Return theta and the scaling, from transformers 5's ``rope_parameters`` or the two older keys."""
    parameters = fields.fields("rope_parameters") or fields.fields("rope_scaling")
    theta = fields.number("rope_theta", 10000.0)
    if parameters is None:
        return theta, ()
    theta = parameters.number("rope_theta", theta)
    if theta <= 0:
        raise parameters.error(f"rope_theta must be above zero, not {theta}")
    if parameters.number("partial_rotary_factor", 1.0) != 1.0:
        raise parameters.error("partial_rotary_factor is not supported")
    rope_type = parameters.text("rope_type", parameters.text("type", "default"))
    if rope_type not in SCALINGS:
        raise parameters.error(f"rope type {rope_type!r:.40} is not supported; supported are {', '.join(SCALINGS)}")
    names = {"default": (), "linear": ("factor",), "llama3": _LLAMA3_PARAMETERS}[rope_type]
    scaling = tuple((name, parameters.number(name)) for name in names)
    if any(value <= 0 for _, value in scaling):
        raise parameters.error("every parameter of the scaling must be above zero")
    if rope_type == "llama3" and dict(scaling)["high_freq_factor"] <= dict(scaling)["low_freq_factor"]:
        raise parameters.error("high_freq_factor must be above low_freq_factor")
    return theta, () if rope_type == "default" else (("rope_type", rope_type), *scaling)


def _eos_token_ids(fields: Fields, generation: Fields | None) -> tuple[int, ...]:
    source = generation if generation is not None and "eos_token_id" in generation else fields
    value = source.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token_id, int) and not isinstance(token_id, bool) and token_id >= 0 for token_id in ids):
        raise source.error(f"eos_token_id must be a token id or a list of them, not {value!r:.80}")
    return tuple(ids)


def _dtype(fields: Fields) -> str:
    dtype = fields.text("dtype", fields.text("torch_dtype", "float32")).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise fields.error(f"dtype {dtype!r:.40} is not supported; supported are {', '.join(_DTYPES)}")
    return dtype


def read_labels(fields: Fields) -> tuple[str, ...]:
    """Return the labels in id order; a checkpoint that names none has ``LABEL_0``, ``LABEL_1`` ..."""
    id_to_label = fields.fields("id2label")
    if id_to_label is None:
        return tuple(f"LABEL_{label_id}" for label_id in range(fields.integer("num_labels", 2)))
    ids = [str(label_id) for label_id in range(len(id_to_label.values))]
    if not ids or any(label_id not in id_to_label for label_id in ids):
        raise fields.error("id2label must name the labels 0, 1, ... without a gap")
    labels = tuple(id_to_label.text(label_id) for label_id in ids)
    if len(set(labels)) != len(labels):
        raise fields.error("id2label gives one name to two labels")
    return labels


def is_multi_label(fields: Fields, num_labels: int) -> bool:
    """Tell whether labels are judged one by one; a single label can only be."""
    problem = fields.text("problem_type", "")
    if problem not in ("", "single_label_classification", "multi_label_classification"):
        raise fields.error(f"problem_type {problem!r:.40} is not supported; the model must be a classifier")
    return problem == "multi_label_classification" or num_labels == 1
