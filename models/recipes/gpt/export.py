"""Write the model in Hugging Face's GPT-2 layout: config, bfloat16 weights, tokenizer, defaults of generation."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from models.recipes.gpt.model import GPT, NORM_EPS, hugging_face_state
from models.recipes.gpt.tokenizer import END_OF_TEXT, end_of_text_id


def export_model(model: GPT, tokenizer: Tokenizer, destination: Path) -> None:
    """Write the files to ``destination``, which is made if need be. Same model in, same bytes out."""
    destination.mkdir(parents=True, exist_ok=True)
    end_id = end_of_text_id(tokenizer)
    shape = model.shape
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": shape.vocab_size,
        "n_positions": shape.max_positions,
        "n_ctx": shape.max_positions,
        "n_embd": shape.width,
        "n_layer": shape.num_layers,
        "n_head": shape.num_heads,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": NORM_EPS,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": end_id,
        "eos_token_id": end_id,
        "torch_dtype": "bfloat16",
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "model_max_length": shape.max_positions,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(destination / "config.json", config)
    _write_json(destination / "generation_config.json", {"bos_token_id": end_id, "eos_token_id": end_id})
    _write_json(destination / "tokenizer_config.json", tokenizer_config)
    tokenizer.save(str(destination / "tokenizer.json"))
    state = {name: tensor.to(torch.bfloat16) for name, tensor in hugging_face_state(model).items()}
    save_file(state, destination / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
