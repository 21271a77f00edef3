"""A tiny valid checkpoint of our own making, to break in one place at a time."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CONFIG: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}

SHAPES = {
    "model.embed_tokens.weight": (32, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.k_proj.weight": (4, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.post_attention_layernorm.weight": (8,),
    "model.layers.0.mlp.gate_proj.weight": (12, 8),
    "model.layers.0.mlp.up_proj.weight": (12, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 12),
    "model.norm.weight": (8,),
    "lm_head.weight": (32, 8),
}


def write_checkpoint(directory: Path) -> None:
    """Write a complete checkpoint with random weights."""
    directory.mkdir(parents=True, exist_ok=True)
    write_config(directory)
    generator = torch.Generator().manual_seed(0)
    save_file({name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}, directory / "model.safetensors")


def write_config(directory: Path, **changes: object) -> None:
    """Write ``config.json`` with some keys changed; None removes one."""
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))


def change_weights(directory: Path, **changes: torch.Tensor | None) -> None:
    """Save the weights again with some tensors changed; ``__`` in a key stands for a dot; None removes one."""
    path = directory / "model.safetensors"
    tensors = load_file(path) | {name.replace("__", "."): tensor for name, tensor in changes.items() if tensor is not None}
    removed = {name.replace("__", ".") for name, tensor in changes.items() if tensor is None}
    save_file({name: tensor for name, tensor in tensors.items() if name not in removed}, path)


def shard(directory: Path) -> None:
    """Replace the one weight file by two shards and their index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file_name, part in files.items():
        save_file({name: tensors[name] for name in part}, directory / file_name)
    write_index(directory, {name: file_name for file_name, part in files.items() for name in part})


def write_index(directory: Path, weight_map: dict[str, str]) -> None:
    """Write an index."""
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
