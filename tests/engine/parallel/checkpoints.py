"""Tiny random checkpoints whose heads two ranks can share, written without transformers: the names are those that our modules mirror."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from attendant_engine.attention.registry import load_backend
from attendant_engine.layers.linear import Linear
from attendant_engine.models.registry import build_model
from attendant_engine.weights.checkpoint import read_model_config

VOCAB_SIZE = 97
MAX_POSITIONS = 192

FAMILIES: dict[str, dict[str, object]] = {
    # Four heads of 12; an inner sum of 140, of which a rank has 70.
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_positions": MAX_POSITIONS,
        "n_embd": 48,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": 140,
    },
    # Four queries on two key/value heads of 16, biases, and a head of its own.
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 40,
        "intermediate_size": 108,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    # Two heads, three labels.
    "bert": {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 72,
        "max_position_embeddings": MAX_POSITIONS,
        "id2label": {"0": "a", "1": "b", "2": "c"},
    },
}


def write(name: str, directory: Path) -> Path:
    """Save the checkpoint ``name`` of ``FAMILIES`` in ``directory`` and return that."""
    settings = {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, **FAMILIES[name]}
    (directory / "config.json").write_text(json.dumps(settings))
    with torch.device("meta"):
        built = build_model(read_model_config(directory), load_backend("torch", torch.device("cpu")))
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for part in built.modules_with_weights:
        for module_name, module in part.named_modules():
            for attribute, parameter in module.named_parameters(recurse=False):
                is_transposed = attribute == "weight" and isinstance(module, Linear) and module.is_transposed_in_checkpoint
                shape = parameter.shape[::-1] if is_transposed else parameter.shape
                is_scale = attribute == "weight" and len(shape) == 1
                tensors[f"{module_name}.{attribute}"] = 0.2 * torch.randn(shape, generator=generator) + is_scale
    save_file(tensors, directory / "model.safetensors")
    return directory
