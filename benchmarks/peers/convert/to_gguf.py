"""GGUF for llama.cpp, written tensor by tensor: GPT-2 and Llama in F32, BF16, Q8_0 or Q4_0, without a vocabulary's texts.

Every matrix takes the class's type, the token embeddings too (llama.cpp would keep a Q4_0 model's head in Q6_K, which
reads more bytes): the fastest form of each class. Vectors and GPT-2's positions stay float32.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize
from safetensors.torch import load_file

_TYPES = {
    "float32": gguf.GGMLQuantizationType.F32,
    "bfloat16": gguf.GGMLQuantizationType.BF16,
    "int8": gguf.GGMLQuantizationType.Q8_0,
    "int4": gguf.GGMLQuantizationType.Q4_0,
}


def convert(model: str, precision: str, source: Path, target: Path) -> None:
    """Write ``target/model.gguf``."""
    target.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    weights = {name: tensor.float().numpy() for name, tensor in load_file(source / "model.safetensors").items()}
    writer = gguf.GGUFWriter(target / "model.gguf", model)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    tensors = _gpt2(writer, config, weights) if model == "gpt2" else _llama(writer, config, weights)
    for name, array in tensors.items():
        is_matrix = array.ndim == 2 and name != "position_embd.weight"
        kind = _TYPES[precision] if is_matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gpt2(writer: Any, config: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """Name GPT-2's tensors; its linear weights are ``[in, out]`` and GGUF's ``[out, in]``."""
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    tensors = {"token_embd.weight": weights["transformer.wte.weight"], "position_embd.weight": weights["transformer.wpe.weight"]}
    parts = {
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }
    for layer in range(config["n_layer"]):
        for theirs, name in parts.items():
            tensors[f"blk.{layer}.{name}.weight"] = weights[f"transformer.h.{layer}.{theirs}.weight"].T
            tensors[f"blk.{layer}.{name}.bias"] = weights[f"transformer.h.{layer}.{theirs}.bias"]
    return tensors | {"output_norm.weight": weights["transformer.ln_f.weight"], "output_norm.bias": weights["transformer.ln_f.bias"]}


def _llama(writer: Any, config: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """Name Llama's tensors; queries and keys are reordered, as llama.cpp rotates neighbours and Hugging Face halves."""
    num_heads, num_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(num_kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // num_heads)
    writer.add_rope_freq_base(10000.0)
    tensors = {"token_embd.weight": weights["model.embed_tokens.weight"], "output.weight": weights["lm_head.weight"]}
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for theirs, name in parts.items():
            tensors[f"blk.{layer}.{name}.weight"] = weights[f"{prefix}{theirs}.weight"]
        tensors[f"blk.{layer}.attn_q.weight"] = _interleave_halves(weights[f"{prefix}self_attn.q_proj.weight"], num_heads)
        tensors[f"blk.{layer}.attn_k.weight"] = _interleave_halves(weights[f"{prefix}self_attn.k_proj.weight"], num_kv_heads)
    return tensors | {"output_norm.weight": weights["model.norm.weight"]}


def _interleave_halves(weight: Any, num_heads: int) -> Any:
    rows, width = weight.shape
    return weight.reshape(num_heads, 2, rows // num_heads // 2, width).swapaxes(1, 2).reshape(rows, width)
