"""Tiny random-weight checkpoints in Hugging Face layout, written in a few milliseconds.

The decoders read bytes: a token an ASCII character, so that a test can count tokens by counting characters. One token,
``POISON_ID``, overflows float32 in the first layer of a Llama written here: its row alone, and every later row of the
sequence, has no finite logits, while the weights themselves are finite, as the loader demands.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

START_ID, END_ID, POISON_ID = 256, 257, 258
DECODER_VOCAB_SIZE = 259
CHAT_TEMPLATE = """\
{% for message in messages %}
{{ message.role }}: {{ message.content }}
{% endfor %}
{% if add_generation_prompt %}assistant: {% endif %}"""
LOOPING_TEMPLATE = f"""\
{{% set text = messages[-1].content %}}
{{% if text == 'loop' %}}{{% for i in range(90000) %}}{{% for j in range(90000) %}}{{% endfor %}}{{% endfor %}}{{% endif %}}
{{% if text == 'refuse' %}}{{{{ raise_exception('no refusals are answered here') }}}}{{% endif %}}
{{% if text == 'broken' %}}{{{{ messages[99].content.upper() }}}}{{% endif %}}
{CHAT_TEMPLATE}"""
"""Loops, refuses or fails when the last message says so; otherwise it is ``CHAT_TEMPLATE``."""

_HIDDEN, _LAYERS, _HEADS = 32, 2, 4
_SPECIAL_TOKENS = ["<|start|>", "<|end|>", "<|poison|>"]
_BERT_WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz.,!?",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
]

Weights = dict[str, torch.Tensor]


def write_llama(directory: Path, *, seed: int = 0, chat_template: str | None = None, max_len: int = 256, **config: Any) -> Path:
    """Write a Llama with untied head whose only unusual token is ``POISON_ID``; ``config`` overrides keys of its config.json."""
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": DECODER_VOCAB_SIZE,
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS // 2,
        "max_position_embeddings": max_len,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": START_ID,
        "eos_token_id": END_ID,
        "dtype": "float32",
    }
    return _write(directory, fields | config, llama_weights(seed), chat_template)


def write_gpt2(directory: Path, *, seed: int = 0, chat_template: str | None = None, max_len: int = 256, **config: Any) -> Path:
    """Write a GPT-2 with tied head; ``config`` overrides keys of its config.json."""
    fields = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": DECODER_VOCAB_SIZE,
        "n_embd": _HIDDEN,
        "n_layer": _LAYERS,
        "n_head": _HEADS,
        "n_positions": max_len,
        "bos_token_id": END_ID,
        "eos_token_id": END_ID,
        "dtype": "float32",
    }
    return _write(directory, fields | config, _gpt2_weights(seed, max_len), chat_template)


def write_bert_classifier(
    directory: Path, *, labels: Sequence[str] = ("no", "yes"), multi_label: bool = False, seed: int = 0, max_len: int = 64
) -> Path:
    """Write a BERT sequence classifier over lower-case letters."""
    weights = {f"bert.{name}": tensor for name, tensor in _bert_weights(seed, max_len).items()}
    draw = _Draw(seed + 1)
    weights |= {
        "bert.pooler.dense.weight": draw(_HIDDEN, _HIDDEN),
        "bert.pooler.dense.bias": draw(_HIDDEN),
        "classifier.weight": draw(len(labels), _HIDDEN),
        "classifier.bias": draw(len(labels)),
    }
    fields = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(label_id): label for label_id, label in enumerate(labels)},
        "problem_type": "multi_label_classification" if multi_label else "single_label_classification",
    }
    return _write_bert(directory, fields, weights, max_len)


def write_bert_encoder(directory: Path, *, seed: int = 0, max_len: int = 64) -> Path:
    """Write a BERT embedding model, mean-pooled and normalised, in sentence-transformers' layout."""
    _write_bert(directory, {"architectures": ["BertModel"]}, _bert_weights(seed, max_len), max_len)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [{"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in enumerate(modules)]
    _write_json(directory / "modules.json", listed)
    (directory / "1_Pooling").mkdir(exist_ok=True)
    _write_json(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": _HIDDEN, "pooling_mode_mean_tokens": True})
    return directory


def write_adapter(directory: Path, labels: Sequence[str], *, seed: int = 0, width: int = _HIDDEN) -> Path:
    """Write a LoRA adapter in PEFT's layout that classifies over one of the BERT models here; another ``width`` fits none of them."""
    draw = _Draw(seed, std=1.0)
    query = "base_model.model.bert.encoder.layer.0.attention.self.query"
    weights = {f"{query}.lora_A.weight": draw(4, width), f"{query}.lora_B.weight": draw(width, 4)}
    weights |= {"base_model.model.classifier.weight": draw(len(labels), width), "base_model.model.classifier.bias": draw(len(labels))}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query"], "modules_to_save": ["classifier"]}
    _write_json(directory / "adapter_config.json", fields)
    id2label = {str(label_id): label for label_id, label in enumerate(labels)}
    _write_json(directory / "config.json", {"id2label": id2label, "classifier_pooling": "mean"})
    return directory


class _Draw:
    """Normal weights of one seed, wide enough that greedy outputs vary."""

    def __init__(self, seed: int, std: float = 0.3) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._std = std

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator) * self._std


def llama_weights(seed: int) -> Weights:
    """The Llama's tensors.

    Dimension 0 of the stream is zero but for ``POISON_ID``, and only the feed-forward layer reads it. Dimension 1 is one for
    all, and the head makes the poison unlikely by it, so that only who asks for it takes it.
    """
    draw = _Draw(seed)
    wide, kv_size = 2 * _HIDDEN, _HIDDEN // 2
    embedding = draw(DECODER_VOCAB_SIZE, _HIDDEN)
    embedding[:, 0] = 0
    embedding[POISON_ID, 0] = 1
    embedding[:, 1] = 1
    weights = {"model.embed_tokens.weight": embedding, "model.norm.weight": torch.ones(_HIDDEN)}
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}."
        weights |= {
            f"{prefix}self_attn.{name}_proj.weight": draw(size, _HIDDEN) for name, size in (("q", _HIDDEN), ("k", kv_size), ("v", kv_size))
        }
        weights |= {f"{prefix}self_attn.o_proj.weight": draw(_HIDDEN, _HIDDEN), f"{prefix}mlp.down_proj.weight": draw(_HIDDEN, wide)}
        weights |= {f"{prefix}mlp.{name}_proj.weight": draw(wide, _HIDDEN) for name in ("gate", "up")}
        weights |= {f"{prefix}{name}.weight": torch.ones(_HIDDEN) for name in ("input_layernorm", "post_attention_layernorm")}
        for name in ("q", "k", "v"):
            weights[f"{prefix}self_attn.{name}_proj.weight"][:, 0] = 0
        for name in ("self_attn.o", "mlp.down"):
            weights[f"{prefix}{name}_proj.weight"][:2] = 0
        for name in ("gate", "up"):
            weights[f"{prefix}mlp.{name}_proj.weight"][:, 0] = 1e30
    head = draw(DECODER_VOCAB_SIZE, _HIDDEN)
    head[:, 0] = 0
    head[POISON_ID] = 0
    head[POISON_ID, 1] = -300
    return weights | {"lm_head.weight": head}


def _gpt2_weights(seed: int, max_len: int) -> Weights:
    draw = _Draw(seed)
    weights = {"transformer.wte.weight": draw(DECODER_VOCAB_SIZE, _HIDDEN), "transformer.wpe.weight": draw(max_len, _HIDDEN)}
    norms = ["transformer.ln_f"]
    for layer in range(_LAYERS):
        prefix = f"transformer.h.{layer}."
        norms += [f"{prefix}ln_1", f"{prefix}ln_2"]
        sizes = {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}
        for name, (fan_in, fan_out) in sizes.items():
            weights[f"{prefix}{name}.weight"] = draw(fan_in * _HIDDEN, fan_out * _HIDDEN)
            weights[f"{prefix}{name}.bias"] = draw(fan_out * _HIDDEN)
    return weights | _norms(norms)


def _bert_weights(seed: int, max_len: int) -> Weights:
    draw = _Draw(seed)
    tables = {"word": len(_BERT_WORDS), "position": max_len, "token_type": 2}
    weights = {f"embeddings.{name}_embeddings.weight": draw(size, _HIDDEN) for name, size in tables.items()}
    norms = ["embeddings.LayerNorm"]
    for layer in range(_LAYERS):
        prefix = f"encoder.layer.{layer}."
        norms += [f"{prefix}attention.output.LayerNorm", f"{prefix}output.LayerNorm"]
        sizes = {f"attention.self.{name}": (1, 1) for name in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (1, 1), "intermediate.dense": (1, 2), "output.dense": (2, 1)}
        for name, (fan_in, fan_out) in sizes.items():
            weights[f"{prefix}{name}.weight"] = draw(fan_out * _HIDDEN, fan_in * _HIDDEN)
            weights[f"{prefix}{name}.bias"] = draw(fan_out * _HIDDEN)
    return weights | _norms(norms)


def _norms(names: Sequence[str]) -> Weights:
    return {f"{name}.weight": torch.ones(_HIDDEN) for name in names} | {f"{name}.bias": torch.zeros(_HIDDEN) for name in names}


def _write(directory: Path, fields: Mapping[str, Any], weights: Weights, chat_template: str | None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", fields)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: token_id for token_id, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL_TOKENS)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"bos_token": "<|start|>", "eos_token": "<|end|>"} | ({} if chat_template is None else {"chat_template": chat_template})
    _write_json(directory / "tokenizer_config.json", settings)
    return directory


def _write_bert(directory: Path, fields: Mapping[str, Any], weights: Weights, max_len: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    shape = {
        "model_type": "bert",
        "vocab_size": len(_BERT_WORDS),
        "hidden_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "intermediate_size": 2 * _HIDDEN,
        "max_position_embeddings": max_len,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    _write_json(directory / "config.json", shape | dict(fields))
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "vocab.txt").write_text("\n".join(_BERT_WORDS) + "\n", encoding="utf-8")
    return directory


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
